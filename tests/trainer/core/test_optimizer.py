"""AdamW with fp32 masters: what bf16 alone would lose, and nothing lost in a checkpoint."""

import copy

import pytest
import torch

from finetune_trainer.model.optimizer import AdamWithMasters


def _parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(torch.bfloat16).to(dtype))
        for shape in ((5, 3), (7,))
    ]


def _steps(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.to(torch.bfloat16).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_masters_are_what_fp32_training_would_have(weight_decay: float) -> None:
    low, exact = _parameters(torch.bfloat16), _parameters(torch.float32)
    _steps(AdamWithMasters([{"params": low, "weight_decay": weight_decay}], lr=1e-4), low, 40)
    _steps(torch.optim.AdamW(exact, lr=1e-4, weight_decay=weight_decay), exact, 40)
    for rounded, want in zip(low, exact, strict=True):
        torch.testing.assert_close(rounded.float(), want.to(torch.bfloat16).float(), rtol=0, atol=0)


def test_updates_below_the_precision_of_bf16_add_up() -> None:
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = AdamWithMasters([parameter], lr=1e-4)  # 1 - 1e-4 rounds to 1 in bf16
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.item() == pytest.approx(0.99, abs=2e-3)


def test_learning_rate_of_its_groups_is_obeyed() -> None:
    parameters = _parameters(torch.bfloat16)
    optimizer = AdamWithMasters(parameters, lr=1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in parameters]
    _steps(optimizer, parameters, 3)
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


def test_a_restored_optimizer_continues_bit_for_bit() -> None:
    whole = _parameters(torch.bfloat16)
    _steps(AdamWithMasters(whole, lr=1e-3), whole, 10)

    first = _parameters(torch.bfloat16)
    optimizer = AdamWithMasters(first, lr=1e-3)
    _steps(optimizer, first, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    second = [torch.nn.Parameter(parameter.detach().clone()) for parameter in first]
    restored = AdamWithMasters(second, lr=9.0)
    restored.load_state_dict(saved)
    _steps(restored, second, 6, start=4)
    assert all(torch.equal(old, new) for old, new in zip(whole, second, strict=True))
