"""AdamW for bf16 weights: moments and master copies in fp32."""

from collections.abc import Iterable
from typing import Any

import torch


class AdamWithMasters(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) on fp32 copies of low-precision parameters.

    bf16 has 8 bits of mantissa: an update below 1/256 of a weight would be lost in it. The step is taken on the
    masters, the parameters get them rounded. `state_dict` holds the masters, so that a resumed run continues from
    exactly the same numbers.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})
        self._parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._masters = [parameter.detach().float().clone() for parameter in self._parameters]
        masters = iter(self._masters)
        groups = [
            {"params": [next(masters) for _ in group["params"]], "weight_decay": group["weight_decay"]}
            for group in self.param_groups
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
        """Of the masters."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for mine, inner in zip(self.param_groups, self.optimizer.param_groups, strict=True):
            inner["lr"] = mine["lr"]
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        self.optimizer.step()
        for master in self._masters:
            master.grad = None
        torch._foreach_copy_(self._parameters, self._masters)

    def state_dict(self) -> dict[str, Any]:
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
        return {"adam": self.optimizer.state_dict(), "masters": self._masters, "groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict["adam"])
        for master, saved in zip(self._masters, state_dict["masters"], strict=True):
            master.copy_(saved)
        for group, saved_group in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(saved_group)
