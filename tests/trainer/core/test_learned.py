"""A training that changed nothing is refused, whatever hid that nothing was learned."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.sft.loss import LabelledLoss
from finetune_trainer.rank.schedule import Schedule
from finetune_trainer.training.learned import Beginning, fingerprint, require_trainable
from tests.trainer.builders import make_job
from tests.trainer.hooks import NoHooks
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import Bench, losses

LORA, FULL = {"type": "lora", "lora": {"rank": 4}}, {"type": "full"}


def refused(action: Callable[[], Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as error:
        action()
    assert error.value.reason == "NothingLearned"
    return error.value


# --- fingerprints ----------------------------------------------------------------------------------------------------
def _moved(by: list[tuple[int, int]]) -> torch.Tensor:
    """A million weights, some of them moved by so many units of their last bit."""
    weights = torch.linspace(-1, 1, 2**20 + 7)
    bits = weights.view(torch.int32)
    for index, units in by:
        bits[index] += units
    return weights


@pytest.mark.parametrize(
    "by",
    [
        pytest.param([(0, 1)], id="one bit at the beginning"),
        pytest.param([(2**20 + 6, 1)], id="one bit at the end"),
        pytest.param([(5, 1), (900_000, -1)], id="one up, one down"),
        pytest.param([(5, 3), (6, -3)], id="neighbours"),
    ],
)
def test_a_change_of_the_last_bit_is_seen(by: list[tuple[int, int]]) -> None:
    assert fingerprint(_moved(by)) != fingerprint(_moved([]))


def test_a_precision_that_holds_the_values_changes_nothing() -> None:
    half = torch.randn(5, 7).to(torch.float16)
    assert fingerprint(half) == fingerprint(half.float())


def test_lora_without_b_has_learned_nothing_though_a_changed() -> None:
    """As weight decay does it."""
    halves = {name: torch.nn.ModuleDict({"x": torch.nn.Linear(2, 2)}) for name in ("lora_A", "lora_B")}
    model = torch.nn.ModuleDict({"q": torch.nn.ModuleDict(halves)})
    beginning, parameters = Beginning(model), dict(model.named_parameters())
    parameters["q.lora_A.x.weight"].data.mul_(0.5)
    assert not beginning.differs_from(model)
    parameters["q.lora_B.x.weight"].data.mul_(0.5)
    assert beginning.differs_from(model)


def test_a_change_without_any_gradient_is_none_of_the_rows() -> None:
    """Weight decay again."""
    model = torch.nn.Linear(2, 2)
    beginning = Beginning(model)
    model.weight.data.mul_(0.5)
    schedule = Schedule.of(make_job().spec.training, 3)
    error = refused(lambda: beginning.require_change(model, schedule=schedule, precision="fp32", largest_gradient=0.0))
    assert error.message == (
        "spec.method: nothing was learned: after 3 steps the weights are what they were before (learning rate 0.001, "
        "precision fp32, largest gradient norm 0). No gradient reached them: train other layers or targets; nothing is "
        "published"
    )


# --- trainings -------------------------------------------------------------------------------------------------------
@pytest.fixture
def llama(bench: Bench) -> Bench:
    """No bias that begins at 0: every weight is too large for a tiny step."""
    return Bench(bench.root, save_tiny_model(bench.root / "llama", kind="llama"), bench.rows)


@pytest.mark.parametrize(
    ("method", "precision", "rate"),
    [
        pytest.param(FULL, "bf16", 1e-12, id="bf16, below the masters as well"),
        pytest.param(FULL, "bf16", 1e-11, id="bf16, the masters move and the weights do not"),
        pytest.param(FULL, "fp32", 1e-14, id="fp32"),
        pytest.param({"type": "freeze", "freeze": {"trainableLayers": 1}}, "bf16", 1e-12, id="freeze"),
        pytest.param(LORA, "fp32", 1e-60, id="lora, below every number"),
    ],
)
def test_a_rate_too_small_for_the_precision_is_refused(method: Any, precision: str, rate: float, llama: Bench) -> None:
    training = {"precision": precision, "learningRate": rate, "maxSteps": 2}
    error = refused(lambda: llama.train(llama.job({"method": method, "training": training})))
    assert error.field == "spec.training.learningRate"
    assert f"learning rate {rate:g}, precision {precision}, largest gradient norm " in error.message
    assert "largest gradient norm 0)" not in error.message
    assert not (llama.root / "run" / "result").exists()


def test_a_rate_that_the_precision_can_hold_is_learned(llama: Bench) -> None:
    llama.train(llama.job({"method": FULL, "training": {"precision": "bf16", "learningRate": 1e-3, "maxSteps": 1}}))


def test_a_loss_that_no_weight_reaches_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def detached(self: LabelledLoss, model: Any, batch: Any, real: Any = LabelledLoss.__call__) -> torch.Tensor:
        loss: torch.Tensor = real(self, model, batch)
        return loss * 0 + loss.detach()

    monkeypatch.setattr(LabelledLoss, "__call__", detached)
    job = bench.job({"method": LORA, "training": {"weightDecay": 0.1}})
    assert "No gradient reached them" in refused(lambda: bench.train(job)).message


def test_a_resumed_run_is_compared_with_what_it_began_with(bench: Bench) -> None:
    """Resumed behind its last step: nothing changes any more, and much was learned."""
    job = bench.job({"method": FULL, "checkpoint": {"everySteps": 6}})
    whole = bench.train(job, "whole")
    checkpoint = bench.root / "whole" / "training" / "checkpoint-6"
    assert losses(bench.train(job, "again", NoHooks(resume=checkpoint))) == losses(whole)


def test_a_resumed_run_that_had_learned_nothing_is_refused_still(llama: Bench) -> None:
    job = llama.job({"method": FULL, "checkpoint": {"everySteps": 1}, "training": {"learningRate": 1e-14}})
    refused(lambda: llama.train(job, "first"))
    checkpoint = llama.root / "first" / "training" / "checkpoint-3"
    refused(lambda: llama.train(job, "second", NoHooks(resume=checkpoint)))


def test_a_method_that_trains_nothing_is_refused_before_the_training() -> None:
    assert refused(lambda: require_trainable(0)).field == "spec.method"
    require_trainable(1)
