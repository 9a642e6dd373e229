"""The learning rate of each step: warm-up counts from 1, old runs keep theirs, and a schedule of zeros is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.rank.schedule import Schedule
from tests.trainer.builders import make_job
from tests.trainer.hooks import NoHooks
from tests.trainer.runs import Bench, losses

LORA = {"type": "lora", "lora": {"rank": 4}}


def schedule(steps: int, counts_from: Any = 1, **training: Any) -> Schedule:
    job = make_job({"training": {"learningRate": 1.0, **training}})
    return Schedule.of(job.spec.training, steps, counts_from)


def rates(wanted: Schedule) -> list[float]:
    return [wanted.rate(done) for done in range(wanted.steps)]


@pytest.mark.parametrize(
    ("training", "steps", "want"),
    [
        pytest.param({"warmupRatio": 0.5, "scheduler": "constant"}, 4, [0.5, 1, 1, 1], id="warm-up reaches its peak"),
        pytest.param({"warmupRatio": 0.03, "scheduler": "cosine"}, 1, [1], id="one step has the whole rate"),
        pytest.param({"warmupRatio": 1, "scheduler": "linear"}, 4, [0.25, 0.5, 0.75, 1], id="nothing but warm-up"),
        pytest.param({"warmupRatio": 0, "scheduler": "linear"}, 4, [1, 0.75, 0.5, 0.25], id="no warm-up"),
        pytest.param({"warmupRatio": 0, "scheduler": "cosine"}, 2, [1, 0.5], id="cosine"),
    ],
)
def test_rates_of_the_steps(training: dict[str, Any], steps: int, want: list[float]) -> None:
    assert rates(schedule(steps, **training)) == pytest.approx(want)
    schedule(steps, **training).check()


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.03), (7, 0.3), (40, 0.03), (12, 0), (5, 1)])
def test_old_runs_have_the_rates_of_transformers_to_the_bit(kind: str, steps: int, ratio: float) -> None:
    old = schedule(steps, 0, warmupRatio=ratio, scheduler=kind, learningRate=3e-2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-2)
    name = "constant_with_warmup" if kind == "constant" else kind
    theirs = get_scheduler(name, optimizer, num_warmup_steps=old.warmup_steps, num_training_steps=steps)
    for rate in rates(old):
        assert rate == theirs.get_last_lr()[0]
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        pytest.param(
            schedule(9, learningRate=0.0),
            "spec.training.learningRate: a learning rate of 0 trains nothing; usual are 1e-4 for lora, 1e-5 for full",
            id="a rate of 0",
        ),
        pytest.param(
            schedule(9, learningRate=float("inf")),
            "spec.training.learningRate: a learning rate of inf trains nothing; usual are 1e-4 for lora, 1e-5 for full",
            id="an infinite rate",
        ),
        pytest.param(
            schedule(1, 0, warmupRatio=0.03),
            "spec.training.warmupRatio: all steps of this run (1) belong to its warm-up, with learning rate 0; set it "
            "to 0, or train for more steps",
            id="an old run of one step",
        ),
    ],
)
def test_a_schedule_of_zeros_is_refused_on_its_field(refused: Schedule, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        refused.check()
    assert (error.value.message, error.value.reason) == (message, "ScheduleIsZero")


def test_a_run_that_began_with_the_old_rule_ends_by_it(bench: Bench) -> None:
    """Its checkpoint lacks beginning.json. A resumed run of today has it."""
    job = bench.job({"method": LORA, "checkpoint": {"everySteps": 2}, "training": {"epochs": 2}})
    bench.train(job, "whole")
    checkpoint = bench.root / "whole" / "training" / "checkpoint-2"
    assert json.loads((checkpoint / "beginning.json").read_text()) == {"warmupCountsFrom": 1}
    assert _rates_after(bench, job, checkpoint, "today") == rates(_of(job, 1))[2:]
    (checkpoint / "beginning.json").unlink()
    assert _rates_after(bench, job, checkpoint, "old") == rates(_of(job, 0))[2:]


def _of(job: Any, counts_from: Any) -> Schedule:
    return Schedule.of(job.spec.training, 6, counts_from)


def _rates_after(bench: Bench, job: Any, checkpoint: Path, name: str) -> list[float]:
    result = bench.train(job, name, NoHooks(resume=checkpoint))
    assert len(losses(result)) == 6
    [newest] = (bench.root / name / "training").glob("checkpoint-6")
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["learning_rate"] for entry in history if entry["step"] > 2 and "loss" in entry]
