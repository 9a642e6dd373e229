"""Whether a training changed anything of what it publishes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.rank.schedule import Schedule
from finetune_trainer.rank.settings import Precision

_CHUNK = 2**20
Fingerprint = tuple[int, int]


class Beginning:
    """What the trained weights were when the run began.

    Taken at every start before a checkpoint is loaded: the files of the base and the seed give the same weights again,
    so a resumed run needs no record of them.
    """

    def __init__(self, model: Any) -> None:
        self._fingerprints = {name: fingerprint(parameter) for name, parameter in _effective(model)}

    def differs_from(self, model: Any) -> bool:
        """Called on every rank: ZeRO-3 gathers."""
        return any(self._fingerprints.get(name) != fingerprint(parameter) for name, parameter in _effective(model))

    def require_change(self, model: Any, *, schedule: Schedule, precision: Precision, largest_gradient: float) -> None:
        """Raises ConfigurationError when the result would be what the run began with."""
        if largest_gradient != 0 and self.differs_from(model):
            return
        what = (
            f"nothing was learned: after {schedule.steps} steps the weights are what they were before "
            f"(learning rate {schedule.peak:g}, precision {precision}, largest gradient norm {largest_gradient:.3g})"
        )
        raise ConfigurationError(
            f"{what}. {_cure(largest_gradient, precision)}; nothing is published",
            field="spec.method" if largest_gradient == 0 else "spec.training.learningRate",
            reason="NothingLearned",
        )


def _cure(largest_gradient: float, precision: Precision) -> str:
    if largest_gradient == 0:
        return "No gradient reached them: train other layers or targets"
    return "Raise the learning rate" + (", or use precision fp32" if precision != "fp32" else "")


def require_trainable(trained: int) -> None:
    """Raises ConfigurationError when the method trains no weight."""
    if trained == 0:
        message = "the method leaves no weight to train; name other targets, or more layers"
        raise ConfigurationError(message, field="spec.method", reason="NothingLearned")


def _effective(model: Any) -> Iterator[tuple[str, Any]]:
    """Trained weights whose change changes what the model says. LoRA adds B·A, and B begins at 0: as long as it stays
    there, A has no effect, even where weight decay changes it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_A." not in name:
            yield name, parameter


def fingerprint(parameter: torch.Tensor) -> Fingerprint:
    """Of the bits of a floating-point tensor, the same in every precision that holds its values exactly."""
    with _whole(parameter), torch.no_grad():
        flat = parameter.detach().reshape(-1)
        total = torch.zeros(2, dtype=torch.int64, device=flat.device)
        for start in range(0, len(flat), _CHUNK):
            bits = flat[start : start + _CHUNK].float().view(torch.int32).to(torch.int64)
            total[0] += bits.sum()
            total[1] += (bits * bits).sum()  # beyond 64 bits it wraps around, always the same way
        first, second = total.tolist()
        return first, second


def _whole(parameter: Any) -> AbstractContextManager[Any]:
    """ZeRO-3: the parameter itself is empty between uses."""
    if not hasattr(parameter, "ds_tensor"):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([parameter])
    return gathered
