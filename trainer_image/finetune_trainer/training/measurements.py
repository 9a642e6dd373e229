"""What is written down about a training: its numbers, and what it was made from."""

import importlib.metadata
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_trainer.model.method import Trainable
from finetune_trainer.model.pins import RunInputs
from finetune_trainer.rank.device import peak_memory_bytes
from finetune_trainer.training.setup import Setup

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed")


def metrics(trainer: Any, trainable: Trainable, *, set_up_seconds: float, train_seconds: float) -> dict[str, Any]:
    """lossHistory, steps, epochs and tokens of the whole run; seconds, tokensPerSecond and peakMemoryBytes of this
    start."""
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
        "peakMemoryBytes": peak_memory_bytes(),
        "trainedParameters": trainable.trained,
        "totalParameters": trainable.total,
    }


def provenance(setup: Setup) -> dict[str, Any]:
    job = setup.job
    model, identity = job.spec.model, job.identity
    return {
        "model": model.model_dump(by_alias=True, exclude_none=True),
        **_begun_with(setup.inputs),
        "data": _in_camel_case(setup.prepared.stats["inputs"]),
        "prepared": job.prepared and job.prepared.digest,
        "configHash": identity.config_hash,
        "image": identity.image,
        "job": {"namespace": identity.namespace, "name": identity.name, "uid": identity.uid, "run": identity.run},
        "device": setup.device.name,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _begun_with(inputs: RunInputs | None) -> dict[str, Any]:
    """Base and data by file and digest."""
    if inputs is None:
        return {}
    named: dict[str, Any] = {
        "base": {file.name: file.digest for file in inputs.base.files},
        "dataFiles": {file.source: f"sha256:{file.sha256}" for file in inputs.data},
    }
    return {**named, "modelRevision": inputs.base.commit} if inputs.base.commit else named


def _in_camel_case(inputs: dict[str, Any]) -> dict[str, Any]:
    """The options of a preparation under names of one kind. Its digest covers them as the objective names them, so they
    are stored like that."""
    return {**inputs, "options": {to_camel(name): value for name, value in inputs.get("options", {}).items()}}
