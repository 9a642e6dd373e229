"""Trains one job on this process: the story from prepared rows to a folder that can be published.

Runs on every rank alike; what is written, rank 0 writes. Knows nothing of S3 layout, signals or progress: see hooks.py.
"""

import importlib.metadata
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import EvaluationResult, SampleAnswer
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.card import samples_of, write_card
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import AcceleratorOutOfMemory, ConfigurationError
from finetune_trainer.model import source
from finetune_trainer.prepare import store
from finetune_trainer.rank import libraries
from finetune_trainer.rank import settings as settings_
from finetune_trainer.rank.device import Device, Process, detect
from finetune_trainer.rank.once import once_per_node
from finetune_trainer.rank.settings import Settings
from finetune_trainer.training.hooks import Hooks, TrainerContext

BEFORE = "evaluation_before.json"
"""In each checkpoint: the score at step 0, which a resumed run cannot measure any more."""


@dataclass(frozen=True)
class TrainResult:
    directory: Path
    """Local: weights, tokenizer, chat template, README.md, training.json. Filled on rank 0 only."""
    kind: Literal["adapter", "model"]
    evaluation: EvaluationResult | None
    """None without held-out rows."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """lossHistory, steps, epochs and tokens of the whole run; seconds, tokensPerSecond and peakMemoryBytes of this
    start."""
    provenance: dict[str, Any] = field(default_factory=dict)


def run(job: JobFile, storage: Storage, scratch: Path, hooks: Hooks) -> TrainResult:
    """Trains, evaluates, and leaves the result in `TrainResult.directory`.

    Args:
        job: with `prepared`.
        scratch: the folder that the ranks of a node share.

    Raises:
        ConfigurationError: the model, or what this device cannot do.
        AcceleratorOutOfMemory, Diverged: during training.
        Transient: storage or network.
        TrainerError: whatever a callback of `hooks` raises.
    """
    process = Process.from_environment()
    say = _rank_zero_says(process)
    libraries.set_up_training(job)
    hooks.stage("loading")
    device = detect(job.world, process)
    prepared = _fetch_prepared(job, storage, scratch)
    settings = settings_.resolve(
        job, device, rows=len(prepared.train), longest_row=max(row.length for row in prepared.train)
    )
    for line in settings_.describe(job, settings, device):
        say(line)
    with _out_of_memory_named():
        return _Training(job, storage, scratch, hooks, process, device, prepared, settings, say).run()


class _Training:
    """The objects of one training, and the order in which they come to be."""

    def __init__(
        self,
        job: JobFile,
        storage: Storage,
        scratch: Path,
        hooks: Hooks,
        process: Process,
        device: Device,
        prepared: store.PreparedRows,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self.job, self.storage, self.scratch, self.hooks = job, storage, scratch, hooks
        self.process, self.device, self.prepared, self.settings, self.say = process, device, prepared, settings, say
        self.output = scratch / "training"
        self.began = 0.0

    def run(self) -> TrainResult:
        from transformers import set_seed

        started = time.monotonic()
        arguments = self._arguments()
        set_seed(self.job.spec.training.seed)
        model, tokenizer = self._load()
        trainer, before = self._trainer(arguments, model, tokenizer)
        resume = self.hooks.resume_from()
        if resume is not None:
            before.restore(resume)
            self.say(f"resuming from {resume.name}")

        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        ended = time.monotonic()

        evaluation = self._final_evaluation(trainer, before)
        metrics = self._metrics(trainer, self.began - started, ended - self.began)
        return self._save(trainer, tokenizer, evaluation, metrics)

    # --- before ---------------------------------------------------------------------------------------------------

    def _arguments(self) -> Any:
        from finetune_trainer.training.arguments import training_arguments

        return training_arguments(self.job, self.settings, self.device, self.output)

    def _load(self) -> tuple[Any, Any]:
        from finetune_trainer.model.gguf_parsing import parsed_once
        from finetune_trainer.model.loading import load_model, load_tokenizer
        from finetune_trainer.model.method import apply_method

        spec = self.job.spec
        fetched = once_per_node(
            self.scratch, "model", lambda: _joined(source.fetch(spec.model, self.storage, self.scratch / "model"))
        )
        files = source.local(spec.model, fetched)
        quantization = spec.method.quantization
        with parsed_once(files):
            tokenizer = load_tokenizer(files)
            model = load_model(files, self.settings, self.device, self.process, quantization, self.scratch)
        tokenizer.chat_template = self.prepared.template
        model, trainable = apply_method(model, self.job, self.settings)
        self.trainable = trainable
        self.say(f"training {trainable}")
        return model, tokenizer

    def _trainer(self, arguments: Any, model: Any, tokenizer: Any) -> tuple[Any, Any]:
        from finetune_trainer.model.optimizer import AdamWithMasters
        from finetune_trainer.objectives.sft.loss import LabelledLoss
        from finetune_trainer.training import trainer as sft_trainer
        from finetune_trainer.training.batches import Cut, RowSet
        from finetune_trainer.training.evaluation import Evaluator

        spec, training = self.job.spec, self.job.spec.training
        loss = LabelledLoss(model)
        needs_masters = self.settings.precision == "bf16" and self.settings.zero_stage is None
        trainer = sft_trainer.SftTrainer(
            model=model,
            args=arguments,
            data_collator=sft_trainer.collator(tokenizer.pad_token_id, on_gpu=self.device.is_gpu),
            processing_class=tokenizer,
            optimizer_cls_and_kwargs=(AdamWithMasters, {"lr": training.learning_rate}) if needs_masters else None,
            loss=loss,
            cut=Cut(training.per_device_batch_size, training.gradient_accumulation_steps, self.process.world_size),
            rows=RowSet(self.prepared.train),
            lengths=[row.length for row in self.prepared.train],
            grouped=training.group_by_length,
        )
        self.evaluator = Evaluator(
            rows=self.prepared.evaluation,
            questions=self.prepared.questions[: spec.evaluation.sample_answers],
            loss=loss,
            tokenizer=tokenizer,
            process=self.process,
            device=arguments.device,
            batch_size=training.per_device_batch_size,
            max_new_tokens=spec.evaluation.max_new_tokens,
            end_of_turn=self.prepared.stats["endOfTurn"],
            answers_on_all_ranks=self.settings.zero_stage == 3,
        )
        before = sft_trainer.Beside(BEFORE)
        trainer.add_callback(before)
        trainer.add_callback(sft_trainer.AtStart(lambda: self._start(trainer, before)))
        trainer.add_callback(sft_trainer.LogLines(self.say))
        context = TrainerContext(
            job=self.job,
            output_dir=self.output,
            rank=self.process.rank,
            local_rank=self.process.local_rank,
            world_size=self.process.world_size,
            trainer=trainer,
        )
        for callback in self.hooks.callbacks(context):
            trainer.add_callback(callback)
        return trainer, before

    def _start(self, trainer: Any, before: Any) -> None:
        """Once model and optimizer are wrapped and a checkpoint is loaded, before the first step."""
        if before.value is None and self.prepared.evaluation and trainer.state.global_step == 0:
            self.hooks.stage("evaluating")
            score = self.evaluator.score(trainer.model_wrapped)
            before.value = asdict(score)
            self.say(f"held-out loss before training: {score.loss:.4f} (perplexity {score.perplexity:.1f})")
        if self.settings.compile:
            from finetune_trainer.model.loading import compile_layers

            self.say("compiling a layer of the decoder: the first step takes half a minute or more")
            compile_layers(trainer.model)
        self.began = time.monotonic()
        self.hooks.stage("training")

    # --- after ----------------------------------------------------------------------------------------------------

    def _final_evaluation(self, trainer: Any, before: Any) -> EvaluationResult | None:
        if not self.prepared.evaluation:
            return None
        self.hooks.stage("evaluating")
        after = self.evaluator.score(trainer.model_wrapped)
        self.say(f"held-out loss after training: {after.loss:.4f} (perplexity {after.perplexity:.1f})")
        if before.value is None:
            return None
        samples = samples_of(self.evaluator.questions, before.value["answers"], after.answers) if after.answers else ()
        return EvaluationResult(
            rows=len(self.prepared.evaluation),
            loss_before=before.value["loss"],
            loss_after=after.loss,
            samples=tuple(SampleAnswer(**sample) for sample in samples),
        )

    def _metrics(self, trainer: Any, set_up_seconds: float, train_seconds: float) -> dict[str, Any]:
        state = trainer.state
        history = [{"step": entry["step"], "loss": entry["loss"]} for entry in state.log_history if "loss" in entry]
        tokens = state.num_input_tokens_seen - trainer._initial_num_input_tokens_seen  # noqa: SLF001
        return {
            "lossHistory": history,
            "steps": state.global_step,
            "epochs": round(state.epoch or 0.0, 4),
            "tokens": state.num_input_tokens_seen,
            "trainSeconds": round(train_seconds, 3),
            "setUpSeconds": round(set_up_seconds, 3),
            "tokensPerSecond": round(tokens / max(train_seconds, 1e-9), 1),
            "peakMemoryBytes": _peak_memory(self.device),
            "trainedParameters": self.trainable.trained,
            "totalParameters": self.trainable.total,
        }

    def _save(
        self, trainer: Any, tokenizer: Any, evaluation: EvaluationResult | None, metrics: dict[str, Any]
    ) -> TrainResult:
        self.hooks.stage("saving")
        directory = self.scratch / "result"
        kind: Literal["adapter", "model"] = "adapter" if self.job.spec.method.lora else "model"
        # Under ZeRO-3 all ranks gather the weights, and bitsandbytes' layers are saved as they are trained.
        trainer.model_wrapped.train()
        trainer.save_model(str(directory))
        provenance = self._provenance()
        if self.process.is_first:
            _finish_folder(directory, kind, self.job)
            choices = {name: f"{choice.value} ({choice.reason})" for name, choice in self.settings.choices.items()}
            write_card(
                directory,
                self.job,
                settings=choices,
                metrics=metrics,
                provenance=provenance,
                evaluation=evaluation,
            )
            document = {"settings": choices, "metrics": metrics, "provenance": provenance, "spec": _spec(self.job)}
            (directory / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return TrainResult(directory, kind, evaluation, metrics, provenance)

    def _provenance(self) -> dict[str, Any]:
        model, identity = self.job.spec.model, self.job.identity
        packages = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed")
        return {
            "model": model.model_dump(by_alias=True, exclude_none=True),
            "data": self.prepared.stats["inputs"],
            "prepared": self.job.prepared and self.job.prepared.digest,
            "configHash": identity.config_hash,
            "image": identity.image,
            "job": {"namespace": identity.namespace, "name": identity.name, "uid": identity.uid, "run": identity.run},
            "device": self.device.name,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }


def _fetch_prepared(job: JobFile, storage: Storage, scratch: Path) -> store.PreparedRows:
    if job.prepared is None:
        raise ConfigurationError("the job file names no prepared rows", field="prepared", reason="NotPrepared")
    uri, folder = job.prepared.uri, scratch / "prepared-rows"

    def fetch() -> Path:
        manifests.fetch(storage, uri, folder)
        return folder

    return store.read(once_per_node(scratch, "prepared-rows", fetch))


def _finish_folder(directory: Path, kind: str, job: JobFile) -> None:
    """Makes a saved model one for others: nothing in it may point into this pod."""
    for name in ("training_args.bin", "scheduler.pt", "optimizer.pt"):
        (directory / name).unlink(missing_ok=True)
    for folder in directory.glob("global_step*"):
        shutil.rmtree(folder)
    if kind == "adapter":
        file = directory / "adapter_config.json"
        config = json.loads(file.read_text())
        config["base_model_name_or_path"] = job.spec.model.source.removeprefix("hf://")
        config["revision"] = job.spec.model.revision
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    else:
        file = directory / "config.json"
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _spec(job: JobFile) -> dict[str, Any]:
    return job.spec.model_dump(by_alias=True, exclude_none=True, mode="json")


def _joined(files: source.ModelFiles) -> Path:
    return files.folder / files.gguf if files.gguf else files.folder


def _peak_memory(device: Device) -> int:
    """Bytes: of the GPU where there is one, else of this process (resident set)."""
    import torch

    if device.is_gpu:
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rank_zero_says(process: Process) -> Callable[[str], None]:
    return (lambda line: print(line, flush=True)) if process.is_first else (lambda line: None)


@contextmanager
def _out_of_memory_named() -> Iterator[None]:
    """The fact alone: the operator says what helps."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise AcceleratorOutOfMemory(str(error).splitlines()[0]) from error
