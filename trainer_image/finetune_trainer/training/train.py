"""Trains one job on this process: the story from prepared rows to a folder that can be published.

Runs on every rank alike. Knows nothing about S3 layout, signals or progress: see hooks.py.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import EvaluationResult
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.causes.foreseeing import foreseen_ends
from finetune_trainer.rank import libraries
from finetune_trainer.rank.schedule import Schedule
from finetune_trainer.training import result
from finetune_trainer.training.hooks import Hooks
from finetune_trainer.training.measurements import metrics
from finetune_trainer.training.result import TrainResult
from finetune_trainer.training.setup import Setup, set_up

if TYPE_CHECKING:
    from finetune_trainer.training.callbacks import CheckpointSidecars
    from finetune_trainer.training.evaluation import Evaluator

BEFORE = "evaluation_before.json"
"""In each checkpoint: the score at step 0, which a resumed run can no longer measure."""
BEGINNING = "beginning.json"
"""In each checkpoint: the rules that the run began with, where later versions have others. 0.1.0 wrote none."""


def run(job: JobFile, storage: Storage, scratch: Path, hooks: Hooks) -> TrainResult:
    """Trains, evaluates, and writes the result to `TrainResult.directory`.

    Args:
        job: with `prepared`.
        scratch: the folder that the ranks of a node share.

    Raises:
        ConfigurationError: the model, the stage, or what this device cannot do.
        AcceleratorOutOfMemory, Diverged: during training.
        Transient: storage or network.
        TrainerError: whatever a callback of `hooks` raises.
    """
    libraries.set_up_training(job)
    hooks.enter("loading")
    setup = set_up(job, storage, scratch)
    with foreseen_ends():
        return _Training(setup, hooks).run()


class _Training:
    """The order in which things happen. What they are made of is in assembly.py."""

    def __init__(self, setup: Setup, hooks: Hooks) -> None:
        self._setup, self._hooks = setup, hooks
        self._began = 0.0

    def run(self) -> TrainResult:
        from transformers import set_seed

        from finetune_trainer.artifacts import unpickling
        from finetune_trainer.rank.collectives import Ranks
        from finetune_trainer.training import assembly
        from finetune_trainer.training.arguments import training_arguments
        from finetune_trainer.training.callbacks import CheckpointSidecars
        from finetune_trainer.training.health import Health
        from finetune_trainer.training.learned import Beginning, require_trainable

        setup, started = self._setup, time.monotonic()
        arguments = training_arguments(setup.job, setup.settings, setup.device, setup.output)
        health = Health(setup.settings.precision, Ranks().any_rank)
        set_seed(setup.job.spec.training.seed)
        loaded = assembly.load(setup)
        require_trainable(loaded.trainable.trained)
        loss = setup.objective.loss(loaded.model)
        trainer = assembly.make_trainer(setup, loaded, arguments, loss, health)
        beginning = Beginning(trainer.model)
        evaluator = assembly.make_evaluator(setup, loaded, arguments, loss)
        kept = CheckpointSidecars(BEFORE, BEGINNING)
        self._add_callbacks(trainer, evaluator, kept)
        resume = self._hooks.resume_from()
        if resume is not None:
            kept.restore(resume)
            setup.report(f"resuming from {resume.name}")
        trainer.schedule = self._schedule(kept, resumes=resume is not None)

        unpickling.restrict()
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        ended = time.monotonic()

        trainer.check_tensors()
        beginning.require_change(
            trainer.model,
            schedule=trainer.schedule,
            precision=setup.settings.precision,
            largest_gradient=trainer.largest_gradient(),
        )
        evaluation = self._evaluate_after(trainer, evaluator, kept.values.get(BEFORE))
        numbers = metrics(
            trainer, loaded.trainable, set_up_seconds=self._began - started, train_seconds=ended - self._began
        )
        self._hooks.enter("saving")
        return result.save(setup, trainer, evaluation, numbers)

    def _add_callbacks(self, trainer: Any, evaluator: "Evaluator", kept: "CheckpointSidecars") -> None:
        from finetune_trainer.training.callbacks import TrainBeginCallback

        begin = TrainBeginCallback(lambda: self._begin(trainer, evaluator, kept))
        for callback in (kept, begin, *self._hooks.callbacks(self._setup.output)):
            trainer.add_callback(callback)

    def _schedule(self, kept: "CheckpointSidecars", *, resumes: bool) -> Schedule:
        """By the rules that the run began with. One that has done no step yet began when its rows were prepared, unless
        this is its first attempt: then they may be another run's."""
        setup = self._setup
        if not resumes and (setup.job.attempt.number == 1 or setup.prepared.stats.get("warmupCountsFrom") == 1):
            kept.values[BEGINNING] = {"warmupCountsFrom": 1}
        counts_from: Literal[0, 1] = 1 if BEGINNING in kept.values else 0
        schedule = Schedule.of(setup.job.spec.training, setup.settings.total_steps, counts_from)
        schedule.check()
        return schedule

    def _begin(self, trainer: Any, evaluator: "Evaluator", kept: "CheckpointSidecars") -> None:
        """Once model and optimizer are wrapped and a checkpoint is loaded, before the first step."""
        trainer.check_tensors()
        if BEFORE not in kept.values and self._setup.prepared.evaluation and trainer.state.global_step == 0:
            self._hooks.enter("evaluating")
            score = evaluator.score(trainer.model_wrapped)
            trainer.health.check_held_out(score.loss, step=0, rate=trainer.rate)
            kept.values[BEFORE] = asdict(score)
            self._setup.report(f"held-out loss before training: {score.loss:.4f} (perplexity {score.perplexity:.1f})")
        if self._setup.settings.compile:
            from finetune_trainer.model.loading import compile_layers

            self._setup.report("compiling a layer of the decoder: the first step takes half a minute or more")
            compile_layers(trainer.model)
        self._began = time.monotonic()
        self._hooks.enter("training")

    def _evaluate_after(
        self, trainer: Any, evaluator: "Evaluator", before: dict[str, Any] | None
    ) -> EvaluationResult | None:
        from finetune_trainer.training.evaluation import Score, compare

        if not self._setup.prepared.evaluation:
            return None
        self._hooks.enter("evaluating")
        after = evaluator.score(trainer.model_wrapped)
        trainer.health.check_held_out(after.loss, step=trainer.state.global_step, rate=trainer.schedule.peak)
        self._setup.report(f"held-out loss after training: {after.loss:.4f} (perplexity {after.perplexity:.1f})")
        if before is None:
            return None
        first = Score(before["loss"], tuple(before["answers"]))
        return compare(evaluator.questions, len(self._setup.prepared.evaluation), first, after)
