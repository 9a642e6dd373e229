"""Tiny bases whose weights are not what they should be."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.trainer.models import save_tiny_model


def spoiled(folder: Path, tensor: str, value: float) -> Path:
    """One row of one tensor holds this value throughout."""
    save_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
