"""Everything about model and method that is known before a GPU is requested: the model is built without memory, its
weights are compared with the headers of its files, and the method is applied to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import (
    architecture,
    attention,
    generation,
    gguf_parsing,
    headers,
    quantized,
    source,
    targets,
    weights,
)
from finetune_trainer.model.places import Place
from finetune_trainer.model.positions import Positions, positions_of
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.model.vocabulary import check_vocabulary, load_fast_tokenizer
from finetune_trainer.rank.reporting import Report

FIELD_LENGTH = "spec.training.maxLength"


@dataclass(frozen=True)
class CheckedModel:
    tokenizer: Any
    parameters: int
    positions: Positions
    weights: tuple[str, ...]
    """Names of the files that hold them."""


def check_model(job: JobFile, place: Place, storage: Storage, scratch: Path, report: Report) -> CheckedModel:
    """Raises ConfigurationError for a model that cannot be trained as the job asks, with field and cure."""
    name = job.spec.model.source
    files = source.fetch_without_weights(job.spec.model, place, storage, scratch / "model")
    with gguf_parsing.parsed_once(files):
        if files.gguf is None:
            config = architecture.load_causal_config(files, name)
            found = headers.read_weights(place)
            shapes = found.shapes
        else:
            found, shapes = None, gguf_parsing.read_shapes(files, name)
            config = architecture.load_causal_config(files, name)
        quantized.check(config, job.spec.method.type, name)
        attention.check(job.spec.training.attention, config)
        model = architecture.build_on_meta_device(config, name, trust_remote_code=files.trust_remote_code)
        tokenizer = load_fast_tokenizer(files, name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        report(f"model: {type(model).__name__}, {parameters:,} parameters")
        _check_weights(files, shapes, model, name, report)
    check_vocabulary(tokenizer, model, name)
    positions = positions_of(model)
    _check_absolute_positions(job, positions)
    for line in check_method(job, model):
        report(line)
    for change in check_savable(model, tokenizer, files, name, scratch / "saved"):
        report(f"generation_config of the result: {change}")
    return CheckedModel(tokenizer, parameters, positions, found.files if found else tuple(place.sizes()))


def _check_weights(
    files: ModelFiles, shapes: Mapping[str, tuple[int, ...]] | None, model: Any, name: str, report: Report
) -> None:
    if shapes is None:
        report("the weights are in .bin files: they are compared with the model when they are loaded")
        return
    if files.gguf:
        difference = gguf_parsing.compare(files, model, shapes)
    else:
        difference = weights.compare(model, shapes, packed=quantized.method_of(model.config) is not None)
    if difference and (line := weights.check(difference, model, name)):
        report(line)


def check_method(job: JobFile, model: Any) -> list[str]:
    """Lines for the log. Raises ConfigurationError for a method that does not work with this model or device."""
    method = job.spec.method
    if method.type == "freeze" and method.freeze is not None:
        layers = model.config.get_text_config().num_hidden_layers
        if method.freeze.trainable_layers > layers:
            message = f"{method.freeze.trainable_layers} layers cannot be trained: the model has only {layers}"
            raise ConfigurationError(message, field="spec.method.freeze.trainableLayers")
    if job.spec.training.precision == "fp16" and job.world.gpus_per_node == 0:
        message = "fp16 does not train on a CPU; use auto, bf16 or fp32"
        raise ConfigurationError(message, field="spec.training.precision")
    return targets.check(model, method.lora) if method.lora is not None else []


def check_savable(model: Any, tokenizer: Any, files: ModelFiles, source: str, folder: Path) -> tuple[str, ...]:
    """How the saved generation_config differs from the model's own; one sentence each.

    Args:
        folder: our own, to save into.

    Raises:
        ConfigurationError: no checkpoint of this model could be saved.
    """
    changes = generation.settle(model, files, tokenizer, tokenizer.eos_token_id)
    generation.check_savable(model, source, folder)
    return changes


# --- positions -------------------------------------------------------------------------------------------------------
def _check_absolute_positions(job: JobFile, positions: Positions) -> None:
    if positions.are_learned and positions.count and job.spec.training.max_length > positions.count:
        message = (
            f"rows of up to {job.spec.training.max_length:,} tokens do not fit: the model has learned "
            f"{positions.count:,} positions and has none beyond. Set at most {positions.count}"
        )
        raise ConfigurationError(message, field=FIELD_LENGTH, reason="BeyondPositions")


def check_longest_row(longest: int, positions: Positions) -> None:
    """Rotary positions have no end, but beyond those that it was trained for a model is of no use without scaling."""
    if positions.count and longest > positions.count:
        message = (
            f"the longest row has {longest:,} tokens, and the model was trained for {positions.count:,} positions. "
            f"Set at most {positions.count} with truncate: true, shorten the rows, or use a model with a longer context"
        )
        raise ConfigurationError(message, field=FIELD_LENGTH, reason="BeyondPositions")
