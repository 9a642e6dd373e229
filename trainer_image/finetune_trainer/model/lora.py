"""LoRA's linear layer in fewer passes over memory.

peft computes `base(x) + B(A(x)) · scale` as separate operations: product, scaling and sum each write an activation as
wide as the layer, and autograd writes them again on the way back. Here scaling and sum happen within the matmul. The
numbers equal peft's up to rounding; peft still owns the weights, saves and loads them.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn import functional


def fuse(model: Any) -> int:
    """Gives each LoRA layer that can take it the fused forward pass, in place.

    Not those over quantised weights, which are not plain matrices, nor those with dropout.

    Returns:
        How many layers took it.
    """
    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        layer.__class__ = FusedLinear
    return len(layers)


def _is_plain(layer: Linear) -> bool:
    without_dropout = all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())
    return type(layer.base_layer) is torch.nn.Linear and without_dropout and not layer.lora_variant


class FusedLinear(Linear):  # type: ignore[misc]  # peft has no types
    """peft's layer over a plain linear one, with its own forward pass while exactly one adapter is active."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x: [..., in features]; returns [..., out features]."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            output: torch.Tensor = super().forward(x, *args, **kwargs)
            return output
        (adapter,) = self.active_adapters
        flat: torch.Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]),
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[adapter].weight,
            self.lora_B[adapter].weight,
            self.scaling[adapter],
        )
        return flat.view(*x.shape[:-1], flat.shape[-1])


class _Fused(torch.autograd.Function):
    """y = x·Wᵀ + bias + scale · (x·Aᵀ)·Bᵀ, with W and bias frozen.

    Shapes: x [n, in], W [out, in], bias [out], A [rank, in], B [out, rank]; y [n, out].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        inner = x @ a.T
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        return functional.linear(x, weight, bias).addmm_(inner, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = gradients
        x, weight, a, b, inner = ctx.saved_tensors
        d_inner = (dy @ b).mul_(ctx.scale)
        dx = (dy @ weight).addmm_(d_inner, a) if ctx.needs_input_grad[0] else None
        return dx, None, None, d_inner.T @ x, (dy.T @ inner).mul_(ctx.scale), None
