"""Fused LoRA layers: peft's numbers, forward and backward, and peft's own layer wherever ours does not fit."""

import copy
from typing import Any

import peft
import pytest
import torch

from finetune_trainer.model import lora


class _Model(torch.nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.up = torch.nn.Linear(6, 10, bias=bias)
        self.down = torch.nn.Linear(10, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(self.up(x))
        return result


def _adapted(*, bias: bool = False, **config: Any) -> Any:
    torch.manual_seed(0)
    config = {"r": 3, "lora_alpha": 7, "target_modules": ["up", "down"], "init_lora_weights": False, **config}
    return peft.get_peft_model(_Model(bias), peft.LoraConfig(**config))


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_peft(bias: bool) -> None:
    theirs = _adapted(bias=bias)
    ours = copy.deepcopy(theirs)
    assert lora.fuse(ours) == 2
    x = torch.randn(2, 5, 6)
    want, got = theirs(x), ours(x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)

    want.square().sum().backward()
    got.square().sum().backward()
    compared = 0
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad, name
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)
            compared += 1
    assert compared == 4, "A and B of two layers"


def test_a_disabled_adapter_leaves_the_base_model() -> None:
    model = _adapted()
    lora.fuse(model)
    x = torch.randn(2, 6)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), model.base_model.model.down.base_layer(model.up.base_layer(x)))


def test_dropout_stays_with_peft() -> None:
    assert lora.fuse(_adapted(lora_dropout=0.1)) == 0
