"""The folder that a training produces: weights, tokenizer, model card, and nothing that points into this pod."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import EvaluationResult
from finetune_trainer.artifacts.card import Facts, write_card
from finetune_trainer.artifacts.usage import Base
from finetune_trainer.model.tokenizer import note_options
from finetune_trainer.training.hyperparameters import describe
from finetune_trainer.training.measurements import provenance
from finetune_trainer.training.setup import Setup

Kind = Literal["adapter", "model"]


@dataclass(frozen=True)
class TrainResult:
    directory: Path
    """Local: weights, tokenizer, chat template, generation_config.json, README.md with loss.svg, training.json.
    Complete on rank 0 only."""
    kind: Kind
    evaluation: EvaluationResult | None
    """None without held-out rows."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """See `measurements.metrics`."""
    provenance: dict[str, Any] = field(default_factory=dict)


def save(setup: Setup, trainer: Any, evaluation: EvaluationResult | None, metrics: dict[str, Any]) -> TrainResult:
    """Called on every rank; rank 0 writes everything but the weights."""
    kind: Kind = "adapter" if setup.job.spec.method.lora else "model"
    result = TrainResult(setup.scratch / "result", kind, evaluation, metrics, provenance(setup))
    # Under ZeRO-3 all ranks gather the weights, and bitsandbytes' layers are saved in the mode in which they train.
    trainer.model_wrapped.train()
    trainer.save_model(str(result.directory))
    if setup.process.is_first:
        _remove_training_state(result.directory)
        trainer.model.generation_config.save_pretrained(result.directory)  # peft saves an adapter without it
        note_options(trainer.processing_class, result.directory)
        _name_base_model(result.directory, kind, setup.job)
        _describe(result, setup, trainer)
    return result


def _remove_training_state(directory: Path) -> None:
    for name in ("training_args.bin", "scheduler.pt", "optimizer.pt"):
        (directory / name).unlink(missing_ok=True)
    for folder in directory.glob("global_step*"):
        shutil.rmtree(folder)


def _name_base_model(directory: Path, kind: Kind, job: JobFile) -> None:
    """The libraries write the path that this pod loaded from; elsewhere it means nothing."""
    file = directory / ("adapter_config.json" if kind == "adapter" else "config.json")
    config = json.loads(file.read_text())
    if kind == "adapter":
        base = Base(job.spec.model)
        config["base_model_name_or_path"] = base.hub_id or base.source
        config["revision"] = base.revision
    else:
        config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _describe(result: TrainResult, setup: Setup, trainer: Any) -> None:
    """README.md for people, training.json for programs."""
    stats, tokenizer = setup.prepared.stats, trainer.processing_class
    known = Facts(
        setup.job,
        hyperparameters=describe(setup, trainer),
        counts=stats.get("counts", {}),
        metrics=result.metrics,
        provenance=result.provenance,
        evaluation=result.evaluation,
        end_of_turn=str(tokenizer.convert_ids_to_tokens(stats["endOfTurn"])),
    )
    write_card(result.directory, known)
    settings: Mapping[str, str] = {
        name: f"{choice.value} ({choice.reason})" for name, choice in setup.settings.choices.items()
    }
    spec = setup.job.spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    document = {"settings": settings, "metrics": result.metrics, "provenance": result.provenance, "spec": spec}
    (result.directory / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
