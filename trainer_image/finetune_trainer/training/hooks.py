"""Where training meets what surrounds it: stages, checkpoints, preemption, progress.

`train.run` knows nothing of S3 prefixes, signals or HTTP. It asks the `Hooks` it is given, and hands their callbacks a
`TrainerContext`. Order of the calls, on every rank:

    hooks.stage("loading")      the model is fetched and loaded, the adapter is put on
    hooks.callbacks(context)    once; the callbacks join transformers' Trainer in this order, after ours
    hooks.resume_from()         once; a local checkpoint directory as the Trainer left it, or None
    hooks.stage("evaluating")   held-out rows at step 0 (not when resumed: the numbers are in the checkpoint)
    hooks.stage("training")
    hooks.stage("evaluating")   held-out rows at the end
    hooks.stage("saving")       the result is written to `TrainResult.directory`

A checkpoint is the directory `<output_dir>/checkpoint-<step>`, complete when the Trainer calls `on_save`, which runs
on every rank after that rank wrote its own files (`rng_state_<rank>.pth`, ZeRO shards), without a barrier: a callback
that uploads the directory of the whole node waits for all its ranks first. The Trainer saves every
`spec.checkpoint.everySteps` and at the last step; a callback gets one more by `control.should_save = True`. A callback
may raise any `TrainerError` (`StoppedAfterSave`, say): it leaves `train.run` unchanged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finetune_contract.jobspec import JobFile
from finetune_contract.progress import Stage

Report = Callable[[str], None]
"""Takes one line for people: what is slow says what it is doing."""


@dataclass(frozen=True)
class TrainerContext:
    """What callbacks may know of the training. The state that moves is in the `TrainerState` each call brings along:
    `state.global_step`, `state.max_steps`, `state.epoch`, `state.num_input_tokens_seen` (tokens without padding, all
    ranks together, carried through a resume), `state.log_history` (a dict with `loss` each `loggingSteps`)."""

    job: JobFile
    output_dir: Path
    """Local; the Trainer writes `checkpoint-<step>` below it, the same path on every rank of a node."""
    rank: int
    local_rank: int
    world_size: int
    trainer: Any
    """The transformers Trainer itself, for what is not here."""


class Hooks(Protocol):
    """What the edges of the trainer provide."""

    def stage(self, stage: Stage) -> None: ...

    def callbacks(self, context: TrainerContext) -> Sequence[Any]:
        """TrainerCallbacks, in the order they shall be called."""

    def resume_from(self) -> Path | None: ...


class NoHooks:
    """Training with nothing around it, as tests and benchmarks want it.

    Args:
        resume: local checkpoint directory to start from.
        callbacks: given to the Trainer as they are.
    """

    def __init__(self, resume: Path | None = None, callbacks: Sequence[Any] = ()) -> None:
        self._resume = resume
        self._callbacks = callbacks
        self.stages: list[Stage] = []

    def stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def callbacks(self, context: TrainerContext) -> Sequence[Any]:
        return self._callbacks

    def resume_from(self) -> Path | None:
        return self._resume
