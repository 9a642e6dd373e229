"""Whether the numbers of a training are still numbers. Every rank comes to the same verdict at the same step.

Costs nothing that shows: losses stay on the device until the gradient norm is there, one transfer per optimizer step;
weights and optimizer are read once per save, which writes them anyway.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from finetune_trainer.errors import Diverged
from finetune_trainer.rank.settings import Precision

Named = tuple[str, torch.Tensor]

PATIENCE = 20
"""Steps in a row that fp16's loss scaling may skip."""
SETTLING_STEPS = 100
"""At the beginning the scale is still being searched for: skips do not count."""


class Health:
    """Watches one training.

    Args:
        any_rank: true on all ranks when it is true on one; called by all of them at the same point.
    """

    def __init__(self, precision: Precision, any_rank: Callable[[bool], bool]) -> None:
        self._precision, self._any_rank = precision, any_rank
        self._losses: list[torch.Tensor] = []
        self._skipped = 0

    def loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Notes the loss of a micro-batch, a scalar, and returns it; what is not finite gives gradients of NaN, which
        the reduction carries to every rank."""
        self._losses.append(loss.detach())
        return loss * (1 + loss.detach() * 0)

    def end_step(self, norm: Any, *, step: int, rate: float, overflowed: bool = False) -> float:
        """Once the gradients of all ranks are reduced.

        Args:
            norm: of the gradients: a scalar tensor, a number, or None where DeepSpeed has none.
            step: counted from 1.
            overflowed: DeepSpeed says that it left this step out.

        Returns:
            The norm.

        Raises:
            Diverged: loss or norm is not finite. With fp16, which leaves such a step out and lowers its scale, only
                when the loss itself is not, or after `PATIENCE` steps in a row.
        """
        *losses, size = _numbers([*self._losses, norm])
        self._losses.clear()
        loss = next((loss for loss in losses if not math.isfinite(loss)), None)
        is_healthy = not overflowed and 0 <= size < math.inf  # DeepSpeed writes -1 for what is not a number
        if is_healthy and loss is None:
            self._skipped = 0
            return size
        if self._precision == "fp16" and not is_healthy and not self._any_rank(loss is not None):
            self._note_skip(step, rate)
            return size
        raise self._diverged(f"the {_first_bad(loss, size)}", step, rate)

    def check(self, tensors: Iterable[Named], *, step: int, rate: float) -> None:
        """Args:
            tensors: everything that is trained or remembered by the optimizer; on this rank.
            step: steps done.

        Raises:
            Diverged: one of them is not finite, on any rank.
        """
        found = first_not_finite(tensors)
        if self._any_rank(found is not None):
            raise self._diverged(f"{found or 'a weight on another rank'} is not finite", step, rate, of_step=False)

    def check_held_out(self, loss: float, *, step: int, rate: float) -> None:
        """Raises Diverged for a held-out loss that is not finite."""
        if not math.isfinite(loss):
            raise self._diverged(f"the held-out loss is {loss}", step, rate, of_step=False)

    def _note_skip(self, step: int, rate: float) -> None:
        self._skipped += step > SETTLING_STEPS
        if self._skipped >= PATIENCE:
            what = f"the gradients overflowed in {PATIENCE} steps in a row"
            raise self._diverged(what, step, rate)

    def _diverged(self, what: str, step: int, rate: float, *, of_step: bool = True) -> Diverged:
        if step == (1 if of_step else 0):
            cure = "use another model" if self._precision == "fp32" else "use another spec.training.precision"
            return Diverged(
                f"{what} {'at step 1, ' if of_step else ''}before any weight was trained: the model that "
                f"spec.model.source names gives this by itself in {self._precision}. Check its files, or {cure}"
            )
        cure = "use a longer warm-up" if self._precision == "fp32" else f"use precision {_WIDER[self._precision]}"
        return Diverged(
            f"{what} {'at' if of_step else 'after'} step {step}; lower spec.training.learningRate, or {cure} "
            f"(the rate was {rate:g}, the precision {self._precision})"
        )


def _first_bad(loss: float | None, norm: float) -> str:
    if loss is not None:
        return f"loss is {loss}"
    return f"gradient norm is {'inf' if norm == math.inf else 'nan'}"


_WIDER = {"fp16": "bf16 or fp32", "bf16": "fp32"}


def _numbers(values: list[Any]) -> list[float]:
    """In one transfer from the device."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    read = iter(torch.stack([tensor.float().reshape(()) for tensor in tensors]).tolist() if tensors else [])
    return [
        next(read) if isinstance(value, torch.Tensor) else 0.0 if value is None else float(value) for value in values
    ]


# --- what there is to look at ----------------------------------------------------------------------------------------
def first_not_finite(tensors: Iterable[Named]) -> str | None:
    """The name of the first with a NaN or an infinity. One pass over memory, one transfer per device and precision."""
    groups: dict[tuple[torch.device, torch.dtype], list[Named]] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append((name, tensor.detach()))
    for group in groups.values():
        if not _is_finite([tensor for _, tensor in group]):
            return next(name for name, tensor in group if not _is_finite([tensor]))
    return None


def _is_finite(tensors: list[torch.Tensor]) -> bool:
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(tensors, math.inf)))


def trained_tensors(model: Any) -> Iterator[Named]:
    """Under ZeRO-3 the share of this rank."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, getattr(parameter, "ds_tensor", parameter)


def optimizer_tensors(optimizer: Any) -> Iterator[Named]:
    """Moments and master copies, whatever wraps the optimizer; under ZeRO the share of this rank."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    for parameter, state in optimizer.state.items():
        yield "a master copy of the optimizer", parameter
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"{name} of the optimizer", value
