"""P7: an interrupted and resumed training is the uninterrupted one, to the bit, on one process."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from finetune_trainer.errors import StoppedAfterSave
from finetune_trainer.training.result import TrainResult
from tests.trainer.hooks import NoHooks
from tests.trainer.runs import Bench, losses

DROPOUT = {"rank": 4, "dropout": 0.2}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "lora": DROPOUT},
    "qlora": {"type": "qlora", "lora": DROPOUT, "quantization": {"bits": 4}},
    "full": {"type": "full"},
    "freeze": {"type": "freeze", "freeze": {"trainableLayers": 1}},
}


class _StopAfter(TrainerCallback):
    """Saves at one step and leaves, as a preemption does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = control.should_save or state.global_step == self._step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise StoppedAfterSave("stopped")


@pytest.mark.parametrize("step", [2, 4, 5], ids=["within an epoch", "between epochs", "in the second epoch"])
@pytest.mark.parametrize(("method", "precision"), [("lora", "fp32"), ("qlora", "fp32"), ("lora", "bf16")])
def test_losses_continue_bit_for_bit(method: str, precision: str, step: int, bench: Bench) -> None:
    _check(bench, method, precision, step)


@pytest.mark.parametrize("method", ["full", "freeze", "qlora"])
def test_losses_continue_bit_for_bit_with_every_method(method: str, bench: Bench) -> None:
    _check(bench, method, "bf16", 3)


def _check(bench: Bench, method: str, precision: str, step: int) -> None:
    job = bench.job(
        {
            "method": METHODS[method],
            "dataset": {"splitFraction": 0.2},
            "evaluation": {"sampleAnswers": 1, "maxNewTokens": 4},
            "training": {"epochs": 3, "precision": precision, "perDeviceBatchSize": 1, "learningRate": 3e-2},
        }
    )
    whole = bench.train(job, "whole")
    with pytest.raises(StoppedAfterSave):
        bench.train(job, "first", NoHooks(callbacks=[_StopAfter(step)]))
    second = bench.train(job, "second", NoHooks(resume=_checkpoint(bench, step)))
    assert len(losses(whole)) == 12
    assert losses(second) == losses(whole)
    assert second.evaluation == whole.evaluation
    assert second.metrics["tokens"] == whole.metrics["tokens"]
    assert _files(second) == _files(whole)


def _checkpoint(bench: Bench, step: int) -> Path:
    return bench.root / "first" / "training" / f"checkpoint-{step}"


def _files(result: TrainResult) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in result.directory.glob("*.safetensors")}
