"""What LoRA is put on: linear layers by name, the fused experts of a mixture by the name of their parameter."""

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

from finetune_contract.jobspec import Lora
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import parts

FIELD = "spec.method.lora.targets"
FIELD_DROPOUT = "spec.method.lora.dropout"
ALL = ("all-linear",)


def lora_config(model: Any, lora: Lora) -> Any:
    """peft's LoraConfig (arXiv:2106.09685) for this model."""
    import peft

    modules, parameters = _sorted_out(model, lora.targets)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets == ALL else modules or None,
        target_parameters=parameters or None,
        exclude_modules=parts.pattern(parts.beside_language(model)),
        task_type="CAUSAL_LM",
    )


def _sorted_out(model: Any, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of modules, and of fused experts' parameters. peft knows the names that experts had before they were
    fused; it takes those as modules."""
    modules = [name for name, _ in model.named_modules()]
    fused = _fused_experts(model) - _names_before_fusion(model)
    parameters = [name for name in targets if name in fused and not _matching(name, modules)]
    return [name for name in targets if name not in parameters], parameters


def check(model: Any, lora: Lora) -> list[str]:
    """Puts the adapters on a model on the meta device, as the training will.

    Returns:
        Lines for the log: what works, and may not be what was meant.

    Raises:
        ConfigurationError: a target that the model does not have, or that cannot have an adapter.
    """
    import peft

    config = lora_config(model, lora)
    if lora.targets != ALL:
        for target in lora.targets:
            _check_target(target, model)
    notes = _notes(model, lora)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # peft says them again when the training does this; `notes` has what matters
            peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        if "lora_dropout" in line:
            message = (
                "fused experts cannot have adapters with dropout; set it to 0, or leave the experts out of targets"
            )
            raise ConfigurationError(message, field=FIELD_DROPOUT) from error
        message = f"peft cannot adapt these targets: {line} {_offer(model)}"
        raise ConfigurationError(message, field=FIELD) from error
    return notes


# --- one target ------------------------------------------------------------------------------------------------------
def _check_target(target: str, model: Any) -> None:
    matched = {name: module for name, module in model.named_modules() if _is_end(target, name)}
    outside = parts.beside_language(model)
    if not matched:
        if target in _fused_experts(model) or target in _names_before_fusion(model):
            return
        raise ConfigurationError(f"the model has no module {target!r}{_hint(target, model)}", field=FIELD)
    within = {name: module for name, module in matched.items() if not parts.is_within(name, outside)}
    if not within:
        message = (
            f"{target!r} belongs to {', '.join(outside)}, which rows of text do not reach: it would learn nothing. "
            f"{_offer(model)}"
        )
        raise ConfigurationError(message, field=FIELD)
    for name, module in within.items():
        if not _can_be_adapted(module):
            raise ConfigurationError(f"{_not_adaptable(target, name, module)} {_offer(model)}", field=FIELD)


def _is_end(target: str, name: str) -> bool:
    """peft's own rule: the full name, or its end after a dot."""
    return name == target or name.endswith(f".{target}")


def _matching(target: str, names: Sequence[str]) -> bool:
    return any(_is_end(target, name) for name in names)


def _can_be_adapted(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    known = torch.nn.Linear | Conv1D | torch.nn.Embedding | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
    return isinstance(module, known)


def _not_adaptable(target: str, name: str, module: Any) -> str:
    linear = [inner for inner, child in module.named_modules() if inner and _can_be_adapted(child)]
    if linear:
        held = sorted({inner.rpartition(".")[2] for inner in linear})
        kind = type(module).__name__
        return f"{target!r} is a block of layers ({kind}), not one. Name what is in it: {', '.join(held)}."
    what = "a norm" if "norm" in f"{type(module).__name__} {name}".lower() else type(module).__name__
    return f"{target!r} is {what}, which has no matrix to adapt."


def _hint(target: str, model: Any) -> str:
    known = _linear_names(model)
    similar = difflib.get_close_matches(target, known, n=1)
    hint = f"; did you mean {similar[0]}?" if similar and not _fused_experts(model) else "."
    return f"{hint} {_offer(model)}"


def _offer(model: Any) -> str:
    fused = sorted(_fused_experts(model) - set(_linear_names(model)))
    experts = f"; its experts are fused, as {', '.join(fused)}" if fused else ""
    return f"Use any of {', '.join(_linear_names(model))}, or all-linear for all{experts}"


def _linear_names(model: Any) -> list[str]:
    """Last parts of the names of all linear layers of the language model except the head, as targets name them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head, outside = model.get_output_embeddings(), parts.beside_language(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and not parts.is_within(name, outside)
    ]
    return sorted({name.rpartition(".")[2] for name in linear})


def _fused_experts(model: Any) -> set[str]:
    """Last parts of the names of parameters that hold the matrices of all experts of a layer."""
    return {
        name.rpartition(".")[2]
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3 and "expert" in name
    }


def _names_before_fusion(model: Any) -> set[str]:
    """Which peft translates (transformers before version 5 had a module for each expert)."""
    from peft.utils import transformers_weight_conversion as tables  # which have no public names

    family = tables._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)  # noqa: SLF001
    return set(tables._MOE_TARGET_MODULE_MAPPING.get(family, {}))  # noqa: SLF001


# --- notes -----------------------------------------------------------------------------------------------------------
def _notes(model: Any, lora: Lora) -> list[str]:
    notes = []
    if outside := parts.beside_language(model):
        notes.append(f"{', '.join(outside)}: not trained, and without adapters, since rows of text do not reach them")
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and embeddings is not None and head.weight is embeddings.weight
    names = [name for name, module in model.named_modules() if module is head or module is embeddings]
    if tied and any(_is_end(target, name) for target in lora.targets for name in names):
        notes.append(
            f"warning: {' and '.join(names)} share one matrix, and an adapter changes only the side that it is on. "
            "Merging writes it into both sides: serve the adapter beside its base, unmerged"
        )
    if lora.targets == ALL and (fused := _fused_experts(model)) and not _names_before_fusion(model):
        notes.append(
            f"warning: all-linear does not reach the fused experts of {model.config.model_type}; "
            f"name {', '.join(sorted(fused))} in targets to adapt them"
        )
    return notes
