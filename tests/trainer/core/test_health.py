"""Numbers that are not finite end a training with 72, wherever they are; what was saved is healthy."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from finetune_trainer.errors import Diverged
from finetune_trainer.model.optimizer import AdamWithMasters
from finetune_trainer.objectives.sft.loss import LabelledLoss
from finetune_trainer.training.evaluation import Evaluator
from finetune_trainer.training.health import Health, first_not_finite, optimizer_tensors
from tests.trainer.hooks import NoHooks
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import Bench

NAN, INF = math.nan, math.inf
LORA, FULL = {"type": "lora", "lora": {"rank": 4}}, {"type": "full"}


def health(precision: Any = "fp32", others: bool = False) -> Health:
    """`others`: what another rank says."""
    return Health(precision, lambda flag: flag or others)


def ends(watched: Health, loss: float, norm: Any, step: int = 7) -> str:
    watched.loss(torch.tensor(loss))
    with pytest.raises(Diverged) as error:
        watched.end_step(norm, step=step, rate=0.5)
    return error.value.message


# --- steps -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("precision", "loss", "norm", "what", "cure"),
    [
        pytest.param("fp32", NAN, torch.tensor(1.0), "the loss is nan", "a longer warm-up", id="a loss"),
        pytest.param("bf16", INF, torch.tensor(1.0), "the loss is inf", "precision fp32", id="an infinite loss"),
        pytest.param("fp32", 1.0, torch.tensor(INF), "the gradient norm is inf", "a longer warm-up", id="gradients"),
        pytest.param("bf16", 1.0, -1.0, "the gradient norm is nan", "precision fp32", id="as DeepSpeed writes NaN"),
        pytest.param("fp16", NAN, torch.tensor(NAN), "the loss is nan", "precision bf16 or fp32", id="fp16, a loss"),
    ],
)
def test_a_step_that_is_not_finite_ends_the_training(
    precision: str, loss: float, norm: Any, what: str, cure: str
) -> None:
    assert ends(health(precision), loss, norm) == (
        f"{what} at step 7; lower spec.training.learningRate, or use {cure} "
        f"(the rate was 0.5, the precision {precision})"
    )


def test_before_the_first_step_it_is_the_model() -> None:
    assert ends(health("bf16"), NAN, NAN, step=1) == (
        "the loss is nan at step 1, before any weight was trained: the model that spec.model.source names gives this "
        "by itself in bf16. Check its files, or use another spec.training.precision"
    )


def test_one_bad_micro_batch_is_enough() -> None:
    watched = health()
    for loss in (1.0, NAN, 2.0):
        watched.loss(torch.tensor(loss))
    assert "the loss is nan" in ends(watched, 3.0, torch.tensor(NAN))


def test_a_loss_that_is_not_finite_makes_every_gradient_nan() -> None:
    """Which the reduction carries to all ranks: they end at the same step, without a message of their own."""
    weight = torch.nn.Parameter(torch.ones(3))
    watched = health()
    watched.loss((weight * torch.tensor([1.0, INF, 1.0])).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.isnan().all()


def test_watching_changes_no_bit_of_a_healthy_step() -> None:
    plain, watched = (torch.nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    (plain.exp().sum() / 3).backward()
    loss = health().loss(watched.exp().sum() / 3)
    loss.backward()
    assert plain.grad is not None
    assert watched.grad is not None
    assert torch.equal(plain.grad, watched.grad)


# --- fp16 ------------------------------------------------------------------------------------------------------------
def skip(watched: Health, steps: range) -> None:
    for step in steps:
        watched.loss(torch.tensor(2.0))
        watched.end_step(torch.tensor(INF), step=step, rate=0.5)


def test_fp16_may_leave_out_any_of_the_first_hundred_steps() -> None:
    skip(health("fp16"), range(1, 101))


def test_fp16_may_leave_out_nineteen_in_a_row() -> None:
    watched = health("fp16")
    for start in (101, 121, 141):
        skip(watched, range(start, start + 19))
        watched.loss(torch.tensor(2.0))
        assert watched.end_step(torch.tensor(1.5), step=start + 19, rate=0.5) == 1.5


def test_fp16_that_leaves_out_twenty_in_a_row_has_diverged() -> None:
    watched = health("fp16")
    skip(watched, range(101, 120))
    assert "the gradients overflowed in 20 steps in a row at step 120" in _skips(watched, 120)


def _skips(watched: Health, step: int) -> str:
    with pytest.raises(Diverged) as error:
        skip(watched, range(step, step + 1))
    return error.value.message


def test_fp16_that_left_out_the_hundred_before_counts_from_there() -> None:
    watched = health("fp16")
    skip(watched, range(1, 120))
    _skips(watched, 120)


def test_a_loss_on_another_rank_ends_this_one_as_well() -> None:
    _skips(health("fp16", others=True), 5)


# --- tensors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_value_in_one_tensor_is_found(value: float, dtype: torch.dtype) -> None:
    bad = torch.zeros(1000, dtype=dtype)
    bad[517] = value
    good = torch.full((5,), torch.finfo(dtype).max, dtype=dtype)
    mixed = [("good", good), ("empty", torch.empty(0)), ("ids", torch.ones(2, dtype=torch.int64))]
    assert first_not_finite([*mixed, ("bad", bad), ("later", bad)]) == "bad"
    assert first_not_finite(mixed) is None


@pytest.mark.parametrize("make", [torch.optim.AdamW, AdamWithMasters], ids=["AdamW", "masters"])
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
def test_the_state_of_the_optimizer_is_looked_at(make: Callable[..., Any], name: str) -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = make([weight], lr=1e-3)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert first_not_finite(optimizer_tensors(optimizer)) is None
    inner = getattr(optimizer, "optimizer", optimizer)
    next(iter(inner.state.values()))[name][2] = NAN
    assert first_not_finite(optimizer_tensors(optimizer)) == f"{name} of the optimizer"


# --- trainings -------------------------------------------------------------------------------------------------------
class _At(TrainerCallback):
    """Acts on the model at the end of a step."""

    def __init__(self, step: int, action: Callable[..., None]) -> None:
        self._step, self._action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            self._action(kwargs["model"], kwargs["optimizer"])


def _one_value(model: Any, optimizer: Any) -> None:
    next(parameter for parameter in model.parameters() if parameter.requires_grad).data.view(-1)[0] = NAN


def _one_moment(model: Any, optimizer: Any) -> None:
    next(optimizer_tensors(optimizer))
    state = next(iter(getattr(optimizer.optimizer, "optimizer", optimizer.optimizer).state.values()))
    state["exp_avg_sq"].view(-1)[0] = INF


@pytest.mark.parametrize("spoil", [_one_value, _one_moment])
@pytest.mark.parametrize(
    ("method", "precision"), [(LORA, "fp32"), (LORA, "bf16"), (FULL, "fp32"), (FULL, "bf16")], ids=str
)
def test_a_poisoned_checkpoint_is_never_saved(
    spoil: Callable[..., None], method: Any, precision: str, bench: Bench
) -> None:
    """At the last step, whose save nothing follows."""
    job = bench.job({"method": method, "checkpoint": {"everySteps": 2}, "training": {"precision": precision}})
    with pytest.raises(Diverged, match=r"is not finite after step 6; lower spec.training.learningRate"):
        bench.train(job, hooks=NoHooks(callbacks=[_At(6, spoil)]))
    saved = sorted(path.name for path in (bench.root / "run" / "training").glob("checkpoint-*"))
    assert saved == ["checkpoint-2", "checkpoint-4"]
    assert not (bench.root / "run" / "result").exists()


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_that_is_not_finite_ends_the_step(
    value: float, accumulation: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite, also at the last step."""
    calls = 0

    def spoiled(self: LabelledLoss, model: Any, batch: Any, real: Any = LabelledLoss.__call__) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss: torch.Tensor = real(self, model, batch)
        return _Spoiled.apply(loss, value) if calls > accumulation else loss  # type: ignore[no-untyped-call, no-any-return]

    monkeypatch.setattr(LabelledLoss, "__call__", spoiled)
    training = {"maxSteps": 2, "perDeviceBatchSize": 1, "gradientAccumulationSteps": accumulation}
    job = bench.job({"method": LORA, "training": training})
    with pytest.raises(Diverged, match=r"^the gradient norm is nan at step 2; lower"):
        bench.train(job)


class _Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * ctx.value, None


@pytest.mark.parametrize(("time", "message"), [
    (1, r"^the held-out loss is nan before any weight was trained: the model that spec\.model\.source names"),
    (2, r"^the held-out loss is nan after step 6; lower spec\.training\.learningRate"),
])  # fmt: skip
def test_a_held_out_loss_that_is_not_finite_is_not_published(
    time: int, message: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 0

    def nan(self: Evaluator, model: Any, real: Any = Evaluator._mean_loss) -> float:
        nonlocal times
        times += 1
        return NAN if times == time else float(real(self, model))

    monkeypatch.setattr(Evaluator, "_mean_loss", nan)
    job = bench.job({"method": LORA, "dataset": {"evaluation": {"source": f"file://{bench.rows}"}}})
    with pytest.raises(Diverged, match=message):
        bench.train(job)
    assert not (bench.root / "run" / "result").exists()


@pytest.mark.parametrize(
    ("tensor", "method", "message"),
    [
        pytest.param("model.layers.0.mlp.up_proj.weight", LORA, "the loss is nan at step 1", id="a frozen layer"),
        pytest.param("model.embed_tokens.weight", FULL, "embed_tokens.weight is not finite", id="an embedding"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_base_with_broken_weights_is_named(
    value: float, tensor: str, method: Any, message: str, bench: Bench
) -> None:
    model = save_tiny_model(bench.root / "broken")
    weights = load_file(model / "model.safetensors")
    weights[tensor][3] = value
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match=re.escape(message)) as error:
        Bench(bench.root, model, bench.rows).train(Bench(bench.root, model, bench.rows).job({"method": method}))
    assert "spec.model.source" in error.value.message
    assert "learningRate" not in error.value.message
