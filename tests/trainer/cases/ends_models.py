"""Tiny bases whose weights are not what they should be."""

import math
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.trainer.models import save_tiny_model, tiny_tokenizer


def spoiled(folder: Path, tensor: str, value: float) -> Path:
    """One row of one tensor holds this value throughout."""
    save_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoiled_token(folder: Path, text: str) -> Path:
    """The embedding of this text's one token is NaN; its head is not tied to it."""
    save_tiny_model(folder, kind="llama")
    [token] = tiny_tokenizer()(text)["input_ids"]
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
