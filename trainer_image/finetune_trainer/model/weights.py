"""Are the weights in the file those of the model that is built? Asked of headers before a GPU is requested, and of
transformers' report when the weights are loaded.

transformers fills what the file lacks with random numbers, and drops what the model does not know: either would be
trained, published and verified as if it were the model that the job names.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD

_SHOWN = 3
_COMPUTED = re.compile(
    r"(^|\.)(inv_freq|masked_bias|position_ids|rotary_emb\.(cos|sin)_cached|rope_(freqs|factors_\w+)(\.weight)?)$"
)
"""Buffers that older versions saved and that today's models compute."""
_NOT_LANGUAGE = re.compile(r"^(v_head|value_head|score|reward_head|mtp|medusa|eagle)\b")
"""Parts beside the language model that are known to be of no use to it: heads of reward models, draft heads."""
_OF_QUANTIZER = re.compile(
    r"(\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format|quant_state\..+)"
    r"|[._](scale_inv|scales?|blocks|activation_scale|weight_scale|input_scale|k_scale|v_scale))$"
)
"""What a quantised file stores beside, or in place of, a weight."""


@dataclass(frozen=True)
class Difference:
    """Between the weights of a file, named as the model names them, and those of the model."""

    missing: frozenset[str]
    """In the model and not in the file."""
    unread: frozenset[str]
    """In the file and not in the model."""
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Shape in the file, shape in the model."""

    @classmethod
    def reported(cls, info: Mapping[str, Any]) -> "Difference":
        """From `output_loading_info` of transformers' `from_pretrained`."""
        return cls(
            frozenset(info["missing_keys"]),
            frozenset(info["unexpected_keys"]),
            {name: (tuple(found), tuple(built)) for name, found, built in info["mismatched_keys"]},
        )


def compare(
    model: Any, shapes: Mapping[str, tuple[int, ...]], *, packed: bool = False, mapping: Any = None
) -> Difference:
    """What loading would report, by transformers' own conversion of names and shapes.

    Args:
        model: on the meta device; its parameters become those of `shapes`, without content.
        shapes: of each tensor in the files, by its name there.
        packed: the file holds weights in a form of its own, whose shapes are not the model's: names are compared.
        mapping: from the names in the files to the model's; transformers' own for this model unless given.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    mapping = mapping or get_model_conversion_mapping(model)
    if packed:
        return _compare_names(model, shapes, mapping)
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    settings = LoadStateDictConfig(device_map={"": "meta"}, weight_mapping=mapping)
    info, _ = convert_and_load_state_dict_in_model(model, weights, settings)
    # Conversions that need the content cannot be tried here: loading decides.
    untried = {name for name, error in info.conversion_errors.items() if "meta tensor" in error}
    info.missing_keys -= untried
    return _adjusted(model, info)


def _compare_names(model: Any, names: Iterable[str], mapping: Any) -> Difference:
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    from transformers.utils.loading_report import LoadStateDictInfo

    built = model.state_dict()
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    targets = {source: entry.target_patterns for entry in converters for source in entry.source_patterns}
    found: set[str] = set()
    for stored in names:
        renamed, source = rename_source_key(stored, renamings, converters, model.base_model_prefix, built)
        if renamed not in built:
            name = _OF_QUANTIZER.sub("", stored)
            renamed, source = rename_source_key(name, renamings, converters, model.base_model_prefix, built)
        first, *others = targets.get(source, [""])
        found |= {renamed, *(renamed.replace(first, other) for other in others)}
    # A scale has the name of its weight's module, not of the weight.
    unread = {name for name in found - built.keys() if f"{name}.weight" not in built}
    info = LoadStateDictInfo(set(built) - found, unread, set(), [], {}, set())
    return _adjusted(model, info)


def _adjusted(model: Any, info: Any) -> Difference:
    """Without what is tied to a weight that is there, and what the architecture says may be missing or left over."""
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)  # noqa: SLF001 - what from_pretrained does; it has no other name
    missing = {*info.missing_keys, *info.conversion_errors} - {name for name, *_ in info.mismatched_keys}
    return Difference.reported({**info.to_dict(), "missing_keys": missing})


def check(difference: Difference, model: Any, source: str) -> str | None:
    """Returns a line for the log when the file holds weights that are of no use to the model.

    Raises:
        ConfigurationError: the weights are not those of the model; names the first few and the likely cause.
    """
    unread = {name for name in difference.unread if not _is_computed(name, model)}
    built = {name for name in unread if _belongs_to_built_part(name, model)}
    foreign = _foreign_parts(unread - built, model)
    if difference.missing or difference.mismatched or built or foreign:
        facts = [
            _fact(len(difference.missing), difference.missing, "missing"),
            _fact(len(difference.mismatched), map(_shapes_of, difference.mismatched.items()), "of another shape"),
            _fact(len(unread), built or foreign or unread, "of no part of the model"),
        ]
        cause = _cause(difference, unread, model)
        message = f"the weights of {source} are not those of {type(model).__name__}: {', '.join(filter(None, facts))}. "
        raise ConfigurationError(message + cause, field=FIELD, reason="WeightsDoNotFit")
    return f"weights that the model has no use for: {_some(unread)}, {len(unread):,} in all" if unread else None


# --- unread ----------------------------------------------------------------------------------------------------------
def _is_computed(name: str, model: Any) -> bool:
    return bool(_COMPUTED.search(name)) or name in {buffer for buffer, _ in _buffers(model)}


def _buffers(model: Any) -> Iterable[tuple[str, Any]]:
    prefix = f"{model.base_model_prefix}."
    for name, buffer in model.named_buffers():
        yield name, buffer
        yield name.removeprefix(prefix), buffer


def _belongs_to_built_part(name: str, model: Any) -> bool:
    """A weight of a module that exists, or of one more in a list of modules that exists."""
    import torch

    parent, _, _ = name.rpartition(".")
    modules = dict(model.named_modules())
    if parent and parent in modules:
        return bool(parent != model.base_model_prefix)
    while parent:
        parent, _, last = parent.rpartition(".")
        if isinstance(modules.get(parent), torch.nn.ModuleList):
            return last.isdigit()
    return False


def _foreign_parts(unread: Iterable[str], model: Any) -> set[str]:
    """Weights under a first name of which the model has nothing at all."""
    parts = {name for name, _ in model.named_children()} | {model.base_model_prefix}
    return {name for name in unread if name.partition(".")[0] not in parts and not _NOT_LANGUAGE.search(name)}


# --- cause -----------------------------------------------------------------------------------------------------------
def _cause(difference: Difference, unread: set[str], model: Any) -> str:
    if any(".lora_" in name for name in unread):
        return "The file holds a LoRA adapter: name a folder in which it is merged into its model"
    if prefix := _foreign_prefix(difference.missing or model.state_dict(), unread):
        return (
            f"Their names begin with {prefix!r}: they were saved from within a wrapper. "
            "Save the model inside it, or remove the prefix from the names"
        )
    if difference.missing and not unread:
        return _cause_of_missing(difference.missing, model)
    if difference.mismatched and not difference.missing:
        return "config.json describes other sizes than were saved: upload the config.json that belongs to the weights"
    if unread and not difference.missing:
        return "config.json describes a smaller or another model: upload the config.json that belongs to the weights"
    kind = model.config.model_type
    return f"config.json says {kind!r}; the weights seem to be of another architecture, or a wrapper's"


def _foreign_prefix(missing: Iterable[str], unread: Iterable[str]) -> str | None:
    """What most of the unread names have before a name that is missing."""
    sought = set(missing)
    prefixes: Counter[str] = Counter()
    for name in unread:
        parts = name.split(".")
        ends = (cut for cut in range(1, len(parts)) if ".".join(parts[cut:]) in sought)
        if (cut := next(ends, None)) is not None:
            prefixes[".".join(parts[:cut]) + "."] += 1
    return prefixes.most_common(1)[0][0] if prefixes else None


def _cause_of_missing(missing: frozenset[str], model: Any) -> str:
    head = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if module is head}
    if {name.rpartition(".")[0] for name in missing} <= heads:
        return (
            "The head is missing: the model was saved without it, or shares it with the embeddings and config.json "
            "lacks `tie_word_embeddings: true`"
        )
    return "A shard was lost, or config.json describes a larger model: upload all files of the model again"


# --- words -----------------------------------------------------------------------------------------------------------
def _fact(count: int, names: Iterable[str], what: str) -> str:
    verb = "is" if count == 1 else "are"
    return f"{count:,} {verb} {what} ({_some(names)})" if count else ""


def _some(names: Iterable[str]) -> str:
    from transformers.core_model_loading import dot_natural_key

    ordered = sorted(names, key=dot_natural_key)
    return ", ".join(ordered[:_SHOWN]) + (", …" if len(ordered) > _SHOWN else "")


def _shapes_of(item: tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    name, (found, built) = item
    return f"{name} {list(found)} for {list(built)}"
