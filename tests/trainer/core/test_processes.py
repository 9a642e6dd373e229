"""Several processes: the same losses as one, whoever partitions what, and a resume that changes none of them."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.runs import Bench, losses

pytestmark = pytest.mark.races

LORA = {"type": "lora", "lora": {"rank": 4}}
QLORA = {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 4}}


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param(LORA, None, id="DDP"),
        pytest.param({"type": "full"}, 2, id="ZeRO-2, full"),
        pytest.param(QLORA, 3, id="ZeRO-3, qlora"),
    ],
)
def test_two_processes_learn_what_one_does(method: dict[str, Any], stage: int | None, bench: Bench) -> None:
    def spec(accumulation: int, deepspeed: int | None) -> dict[str, Any]:
        training = {
            "gradientAccumulationSteps": accumulation,
            **({"deepspeed": {"stage": deepspeed}} if deepspeed else {}),
        }
        return {
            "method": method,
            "dataset": {"evaluation": {"source": f"file://{bench.rows}"}},
            "evaluation": {"sampleAnswers": 1, "maxNewTokens": 3},
            "checkpoint": {"everySteps": 2},
            "training": training,
        }

    one = bench.train(bench.job(spec(2, None)), "one")
    assert one.evaluation is not None
    job = bench.job(spec(1, stage), processes=2)
    two = bench.train_in_processes(job, "two", 2)
    assert two["losses"] == pytest.approx(losses(one), rel=2e-6)
    assert two["evaluation"]["loss_before"] == pytest.approx(one.evaluation.loss_before, rel=2e-6)
    assert two["evaluation"]["loss_after"] == pytest.approx(one.evaluation.loss_after, rel=2e-5)
    assert len(two["evaluation"]["samples"]) == 1

    if stage != 3:
        return
    checkpoint: Path = bench.root / "two" / "training" / "checkpoint-2"
    resumed = bench.train_in_processes(job, "resumed", 2, resume=checkpoint)
    assert resumed["losses"] == pytest.approx(two["losses"], rel=1e-6)
    assert resumed["evaluation"]["loss_after"] == pytest.approx(two["evaluation"]["loss_after"], rel=1e-6)
