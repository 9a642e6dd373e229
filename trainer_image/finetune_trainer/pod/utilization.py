"""How much of the machine is used: the FLOPs of a token, and what the device can do at most."""

import time
from typing import Any

import torch

from finetune_trainer.rank import device

_PEAK_BF16 = {
    # Dense bf16 (Volta and Turing: fp16), FLOP/s, from the vendors' data sheets. First match by name.
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}


def flops_per_token(model: Any, method: str) -> float:
    """Forward 2 per weight, backward 2 for activations, and 2 more where the weights themselves are trained."""
    return (6.0 if method in {"full", "freeze"} else 4.0) * sum(_elements(weight) for weight in model.parameters())


def _elements(weight: Any) -> int:
    """Of the logical weight: neither of a ZeRO-3 shard nor of bytes that hold two 4-bit weights each."""
    if hasattr(weight, "ds_numel"):
        return int(weight.ds_numel)
    if (state := getattr(weight, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(weight.numel())


def peak_flops(*, seconds: float = 0.3) -> float | None:
    """Of one rank's device. A GPU's is on record; a CPU's is measured, since its name does not tell."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in _PEAK_BF16.items() if part in name), None)
    # Where bf16 is emulated, one product would take seconds, and never be the faster one.
    kinds = (torch.bfloat16, torch.float32) if device.cpu().computes_bf16 else (torch.float32,)
    return max(_matmul_rate(kind, seconds / len(kinds)) for kind in kinds)


def _matmul_rate(kind: torch.dtype, seconds: float, size: int = 1024) -> float:
    """Best of several, on constant numbers: the training's random generators stay untouched."""
    left, right = torch.full((size, size), 0.5, dtype=kind), torch.full((size, size), 0.5, dtype=kind)
    end = time.monotonic() + seconds
    best = 0.0
    while time.monotonic() < end:
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
