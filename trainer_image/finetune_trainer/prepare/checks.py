"""Checks model and method before a GPU is requested: the model is built without memory and inspected."""

import difflib
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import generation
from finetune_trainer.model.source import FIELD, ModelFiles


def build_on_meta_device(files: ModelFiles, source: str) -> Any:
    """The model on the meta device: names, shapes and layers, no memory.

    Raises:
        ConfigurationError: the configuration cannot be loaded, or is not that of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(**files.from_pretrained)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=files.trust_remote_code)
    except (ValueError, OSError, KeyError, AttributeError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{source} cannot be loaded as a causal language model: {first_line}"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported") from error


def load_tokenizer(files: ModelFiles, source: str) -> Any:
    """The model's tokenizer. Raises ConfigurationError when there is none, or none that reports character offsets."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**files.from_pretrained)
    except (ValueError, OSError, KeyError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(f"{source} has no tokenizer that can be loaded: {first_line}", field=FIELD) from error
    if not tokenizer.is_fast:
        message = f"the tokenizer of {source} has no fast version (tokenizer.json); convert it"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported")
    if tokenizer.eos_token_id is None:
        message = f"the tokenizer of {source} names no eos_token; set it in its tokenizer_config.json"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported")
    return tokenizer


def check_method(job: JobFile, model: Any) -> None:
    """Raises ConfigurationError for a method that does not work with this model or device."""
    method = job.spec.method
    if method.lora is not None:
        _check_targets(method.lora.targets, model)
    if method.type == "freeze" and method.freeze is not None:
        layers = model.config.get_text_config().num_hidden_layers
        if method.freeze.trainable_layers > layers:
            message = f"{method.freeze.trainable_layers} layers cannot be trained: the model has only {layers}"
            raise ConfigurationError(message, field="spec.method.freeze.trainableLayers")
    if method.type in {"full", "freeze"} and getattr(model.config, "quantization_config", None) is not None:
        message = f"{method.type} needs weights that are not quantised; use lora, or the model's unquantised version"
        raise ConfigurationError(message, field="spec.method.type")
    if job.spec.training.precision == "fp16" and job.world.gpus_per_node == 0:
        message = "fp16 does not train on a CPU; use auto, bf16 or fp32"
        raise ConfigurationError(message, field="spec.training.precision")


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


def _adaptable_modules(model: Any) -> list[str]:
    """Last parts of the names of all linear layers except the head, as LoRA targets name them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
    return sorted({name.rpartition(".")[2] for name in linear})


def _check_targets(targets: tuple[str, ...], model: Any) -> None:
    if targets == ("all-linear",):
        return
    names = [name for name, _ in model.named_modules()]
    known = _adaptable_modules(model)
    for target in targets:
        # peft's own rule: the full name, or its end after a dot.
        if not any(name == target or name.endswith(f".{target}") for name in names):
            similar = difflib.get_close_matches(target, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else "."
            message = f"the model has no module {target!r}{hint} Use any of {', '.join(known)}, or all-linear for all"
            raise ConfigurationError(message, field="spec.method.lora.targets")
