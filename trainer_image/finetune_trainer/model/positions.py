"""How far into a text a model can look: the positions that it has learned, or was trained for."""

from dataclasses import dataclass
from typing import Any

_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_LEARNED = ("wpe", "embed_positions", "position_embeddings", "pos_embed", "wpe_emb")


@dataclass(frozen=True)
class Positions:
    count: int | None
    """None where there is no limit, or the limit is scaled or unknown."""
    are_learned: bool
    """One vector for each position: there is nothing beyond. Otherwise positions are rotations."""


def positions_of(model: Any) -> Positions:
    config = model.config.get_text_config(decoder=True)
    named = (getattr(config, name, None) for name in _NAMES)
    count = next((value for value in named if isinstance(value, int) and value > 0), None)
    if _learned_table(model) is not None:
        return Positions(count, are_learned=True)
    return Positions(count if _has_plain_rotation(config) else None, are_learned=False)


def _learned_table(model: Any) -> Any:
    import torch

    for name, module in model.get_decoder().named_modules():
        if name.rpartition(".")[2] in _LEARNED and isinstance(module, torch.nn.Embedding):
            return module
    return None


def _has_plain_rotation(config: Any) -> bool:
    """Rotary positions, none of which is scaled. Kinds of layer may have settings of their own (Gemma 3)."""
    found = getattr(config, "rope_parameters", None)
    if not isinstance(found, dict) or not found:
        return False
    each = [value for value in found.values() if isinstance(value, dict)] or [found]
    return all(settings.get("rope_type", "default") == "default" for settings in each)
