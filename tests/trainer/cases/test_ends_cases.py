"""A run that succeeded has learned something, in numbers that are numbers; every other end names its cause."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_trainer.pod import outcome
from tests.trainer.cases import ends_models
from tests.trainer.cases.trying import INPUTS, Bench, Ended, Try
from tests.trainer.models import save_tiny_model

ROWS = INPUTS / "57-one-step" / "rows.jsonl"
FULL = {"type": "full"}
ONE_STEP = {"epochs": 1, "perDeviceBatchSize": 4, "gradientAccumulationSteps": 4}


def learned(attempt: Try) -> dict[str, torch.Tensor]:
    """Trained and published: the weights that changed from 0, all of them finite."""
    ended = attempt.train()
    assert (ended.code, ended.crashed) == (0, False), ended.log[-3000:]
    weights = load_file(next(attempt.download().glob("*.safetensors")))
    assert all(weight.isfinite().all() for weight in weights.values())
    return {name: weight for name, weight in weights.items() if "lora_A" not in name and weight.any()}


def unpublished(attempt: Try) -> Ended:
    ended = attempt.train()
    assert ended.code != 0
    assert not ended.crashed, ended.log[-3000:]
    assert attempt.artifact() is None
    return ended


@pytest.mark.parametrize("name", ["57-one-step", "55-split-of-three", "00-smoke"])
def test_a_short_training_learns_something(name: str, bench: Bench) -> None:
    """57: its one step had rate 0, and every B stayed 0."""
    assert learned(bench.case(name))


@pytest.mark.races
def test_one_row_and_two_processes_learn_something(bench: Bench) -> None:
    """23-one-row: the other rank has nothing to learn in any step."""
    assert learned(bench.case("23-one-row"))


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("ratio", [0, 0.03, 1])
def test_one_step_learns_something_by_every_schedule(kind: str, ratio: float, bench: Bench) -> None:
    training = {**ONE_STEP, "scheduler": kind, "warmupRatio": ratio}
    assert learned(bench.of(ROWS, {"training": training}))


@pytest.mark.parametrize(
    ("tensor", "method"),
    [
        pytest.param("model.layers.1.self_attn.o_proj.weight", None, id="a frozen layer"),
        pytest.param("model.embed_tokens.weight", FULL, id="a trained embedding"),
        pytest.param("model.norm.weight", FULL, id="a trained norm"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_base_with_broken_weights_is_named_and_nothing_published(
    tensor: str, method: Any, value: float, bench: Bench, tmp_path: Path
) -> None:
    model = ends_models.spoiled(tmp_path / "model", tensor, value)
    ended = unpublished(bench.of(ROWS, {"method": method} if method else {}, model=model))
    assert (ended.code, ended.record.reason) == (72, "Diverged")
    assert "before any weight was trained: the model that spec.model.source names" in ended.record.message


def test_a_training_that_diverges_in_its_last_step_leaves_nothing(bench: Bench) -> None:
    """The step before leaves weights of 1e30: the next loss is no number."""
    training = {**ONE_STEP, "epochs": 2, "learningRate": 1e30, "scheduler": "constant", "warmupRatio": 0}
    ended = unpublished(bench.of(ROWS, {"method": FULL, "training": training, "checkpoint": {"everySteps": 1}}))
    assert (ended.code, ended.record.reason) == (72, "Diverged")
    assert ended.record.message.endswith("(the rate was 1e+30, the precision fp32)")
    assert "step 2; lower spec.training.learningRate" in ended.record.message


def test_a_held_out_loss_that_is_no_number_is_not_published(bench: Bench) -> None:
    """After the only step: its loss was healthy, and so are the weights."""
    training = {**ONE_STEP, "learningRate": 1e30, "warmupRatio": 0}
    spec = {"method": FULL, "training": training, "dataset": {"evaluation": {"source": f"file://{ROWS}"}}}
    ended = unpublished(bench.of(ROWS, spec))
    assert ended.code == 72
    assert "the held-out loss is nan after step 1; lower spec.training.learningRate" in ended.record.message


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_rate_that_changes_no_weight_is_refused(precision: str, bench: Bench, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", kind="llama")
    training = {**ONE_STEP, "learningRate": 1e-14, "precision": precision}
    ended = unpublished(bench.of(ROWS, {"method": FULL, "training": training}, model=model))
    assert (ended.code, ended.record.reason) == (2, "NothingLearned")
    for part in ("spec.training.learningRate", "1e-14", f"precision {precision}", "largest gradient norm"):
        assert part in ended.record.message


def test_a_rate_of_zero_is_refused_by_the_preparation(bench: Bench) -> None:
    attempt = bench.of(ROWS, {"training": {"learningRate": 0}})
    prepared = attempt.prepare()
    assert (prepared.code, prepared.record.reason, prepared.crashed) == (2, "ScheduleIsZero", False)
    assert prepared.record.message.startswith("spec.training.learningRate: ")


@pytest.mark.races
@pytest.mark.parametrize("stage", [None, 2], ids=["DDP", "ZeRO-2"])
def test_a_loss_that_is_no_number_on_one_rank_ends_all_alike(stage: int | None, bench: Bench, tmp_path: Path) -> None:
    """One token has a broken embedding, and one row has this token."""
    questions = ["Who opens the gate?", "When is lunch?", "Who locks up~?", "Where is the lift?"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": asked, "output": "Nobody."}) + "\n" for asked in questions))
    model = ends_models.spoiled_token(tmp_path / "model", "~")
    training: dict[str, Any] = {"perDeviceBatchSize": 1, **({"deepspeed": {"stage": stage}} if stage else {})}
    attempt = bench.of(rows, {"training": training, "checkpoint": {"everySteps": 1}}, model=model, processes=2)
    assert attempt.prepare().code == 0
    running = attempt.runner.start(attempt.job)
    assert [attempt.runner.server.wait(pid) for pid in running.pids] == [72, 72]
    records = [outcome.read_record(outcome.rank_file(running.folder / "outcome-0", rank)) for rank in range(2)]
    said = sorted(record.message.split(" at step ")[0] for record in records if record)
    assert said[1] == "the loss is nan"
    assert said[0] in {"the gradient norm is nan", "the gradient norm is inf"}  # the latter is what ZeRO makes of it
    assert attempt.artifact() is None
