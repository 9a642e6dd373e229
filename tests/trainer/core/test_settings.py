"""What a job leaves open is chosen by device and data, with the reason."""

from typing import Any

import pytest

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.rank import settings
from finetune_trainer.rank.device import Device
from tests.trainer.builders import make_job

EPYC = Device("cpu", "EPYC", computes_bf16=True)
OLD_CPU = Device("cpu", "Xeon", computes_bf16=False)
H100 = Device("cuda", "H100", computes_bf16=True)
T4 = Device("cuda", "T4", computes_bf16=False)


@pytest.mark.parametrize(
    ("device", "longest", "precision", "attention"),
    [
        pytest.param(EPYC, 100, "bf16", "eager", id="a CPU with bf16 and short rows"),
        pytest.param(OLD_CPU, 100, "fp32", "eager", id="a CPU without bf16"),
        pytest.param(EPYC, 513, "bf16", "sdpa", id="a CPU and long rows"),
        pytest.param(H100, 100, "bf16", "sdpa", id="a GPU of Ampere or newer"),
        pytest.param(T4, 100, "fp16", "sdpa", id="a GPU before Ampere"),
    ],
)
def test_auto_follows_the_device(device: Device, longest: int, precision: str, attention: str) -> None:
    resolved = settings.resolve(make_job(), device, rows=10, longest_row=longest)
    assert (resolved.precision, resolved.attention) == (precision, attention)
    assert resolved.choices["precision"].reason.startswith("auto: ")


def test_the_job_decides_what_it_names() -> None:
    job = make_job({"training": {"precision": "fp32", "attention": "sdpa"}})
    resolved = settings.resolve(job, EPYC, rows=10, longest_row=10)
    assert (resolved.precision, resolved.attention) == ("fp32", "sdpa")
    assert resolved.choices["precision"] == settings.Choice("fp32", "job")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        (EPYC, "fp16", "spec.training.precision: fp16 does not train on a CPU; use auto, bf16 or fp32"),
        (T4, "bf16", "spec.training.precision: T4 does not compute in bf16; use auto or fp16"),
    ],
)
def test_what_the_device_cannot_do_is_rejected(device: Device, precision: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings.resolve(make_job({"training": {"precision": precision}}), device, rows=10, longest_row=10)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("training", "processes", "rows", "steps"),
    [
        pytest.param({"epochs": 3}, 1, 64, 12, id="whole epochs"),
        pytest.param({"epochs": 3}, 1, 65, 15, id="a last step of one row"),
        pytest.param({"epochs": 3}, 2, 64, 6, id="two processes"),
        pytest.param({"epochs": 0.5}, 1, 64, 2, id="half an epoch"),
        pytest.param({"epochs": 3, "maxSteps": 5}, 1, 64, 5, id="maxSteps before the end"),
        pytest.param({"epochs": 1, "maxSteps": 50}, 1, 64, 4, id="maxSteps beyond the end"),
        pytest.param({"epochs": 0.01}, 1, 3, 1, id="at least one step"),
    ],
)
def test_steps_are_counted_before_the_training(training: dict[str, Any], processes: int, rows: int, steps: int) -> None:
    job = make_job({"training": training}, processes=processes)
    assert settings.resolve(job, EPYC, rows=rows, longest_row=10).total_steps == steps


def test_each_value_is_printed_once_with_its_source() -> None:
    job = make_job()
    lines = settings.describe(job, settings.resolve(job, EPYC, rows=64, longest_row=10), EPYC)
    assert lines[:5] == [
        "device: EPYC (cpu)",
        "precision: bf16  (auto: EPYC computes in bf16)",
        "attention: eager  (auto: rows of at most 512 tokens are faster without SDPA on a CPU)",
        "global batch: 16 rows  (1 processes × 4 × 4 accumulated)",
        "optimizer steps: 12  (64 rows, 4 steps per epoch, 3 epochs)",
    ]
    assert "method.lora.targets: all-linear  (job)" in lines
    assert "training.learningRate: 0.001  (job)" in lines
    assert len({line.split(":")[0] for line in lines}) == len(lines)
