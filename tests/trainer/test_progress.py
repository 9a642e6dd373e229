"""What a start reports: over HTTP, to Prometheus, on standard output, to the supervisor."""

import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_contract.progress import ProgressRecord
from finetune_trainer.pod import outcome
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.pace import PaceCallback
from finetune_trainer.pod.record_keeper import RecordKeeper
from finetune_trainer.pod.utilization import flops_per_token, peak_flops
from finetune_trainer.rank import device
from tests.trainer.builders import make_job

JOB = make_job({"training": {"perDeviceBatchSize": 4, "gradientAccumulationSteps": 2}})


class Training:
    """The Trainer's calls, at a pace that the test decides."""

    def __init__(self, keeper: RecordKeeper, metrics: Metrics, *, prints: bool = True, peak: float = 1e9) -> None:
        self.now = 100.0
        self.state = SimpleNamespace(global_step=0, max_steps=40, epoch=0.0, num_input_tokens_seen=0)
        self.callback = PaceCallback(
            JOB, keeper, metrics, prints=prints, measure_peak=lambda: peak, clock=lambda: self.now
        )
        model = torch.nn.Linear(10, 10, bias=False)
        self.callback.on_train_begin(None, self.state, None, model=model)

    def step(self, *, seconds: float = 2.0, waiting: float = 0.5, tokens: int = 1000) -> None:
        self.now += waiting
        self.callback.on_step_begin(None, self.state, None)
        self.now += seconds - waiting
        self.state.global_step += 1
        self.state.epoch += 0.1
        self.state.num_input_tokens_seen += tokens
        self.callback.on_step_end(None, self.state, None)

    def log(self, loss: float = 1.5) -> None:
        logs = {"loss": loss, "learning_rate": 2e-4, "grad_norm": 0.7}
        self.callback.on_log(None, self.state, None, logs=logs)


@pytest.fixture
def keeper() -> RecordKeeper:
    return RecordKeeper(JOB)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(JOB)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"finetune_trainer_{name}", labels)


def test_the_record_follows_the_training(keeper: RecordKeeper, metrics: Metrics) -> None:
    training = Training(keeper, metrics)
    for _ in range(10):
        training.step()
    training.log()
    record = keeper.record
    assert (record.step, record.total_steps, record.loss, record.tokens_total) == (10, 40, 1.5, 10_000)
    assert record.tokens_per_second == 500.0
    assert record.eta_seconds == 60
    assert record.epoch == pytest.approx(1.0)


def test_each_report_is_one_line_for_people(
    keeper: RecordKeeper, metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(keeper, metrics)
    training.step()
    training.log()
    assert capsys.readouterr().out == "step 1/40  epoch 0.10  loss 1.5000  500 tok/s  ETA 1 min 18 s\n"


def test_other_ranks_are_silent(keeper: RecordKeeper, metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(keeper, metrics, prints=False)
    training.step()
    training.log()
    assert capsys.readouterr().out == ""


def test_prometheus_sees_the_same(keeper: RecordKeeper, metrics: Metrics) -> None:
    training = Training(keeper, metrics, peak=4e6)
    for _ in range(4):
        training.step()
    training.log(loss=2.5)
    metrics.enter("training")
    want = {
        "step": 4,
        "steps_planned": 40,
        "loss": 2.5,
        "learning_rate": 2e-4,
        "grad_norm": 0.7,
        "tokens_per_second": 500,
        "tokens_total": 4000,
        "samples_total": 4 * 8,
        "eta_seconds": 72,
        "data_wait_seconds_total": 1.5,  # three waits lie between four steps
        "mfu_ratio": 500 * 4 * 100 / 4e6,
    }
    assert {name: value(metrics, name) for name in want} == pytest.approx(want)
    assert value(metrics, "stage", stage="training") == 1
    assert value(metrics, "stage", stage="loading") == 0
    assert (value(metrics, "peak_memory_bytes") or 0) > 1 << 20
    assert value(metrics, "last_step_timestamp_seconds")


def test_a_resumed_start_continues_the_count_and_measures_its_own_pace(keeper: RecordKeeper, metrics: Metrics) -> None:
    training = Training(keeper, metrics)
    training.state.global_step, training.state.num_input_tokens_seen = 20, 20_000
    training.callback.on_train_begin(None, training.state, None)
    training.step()
    training.log()
    assert keeper.record.tokens_per_second == 500.0
    assert value(metrics, "tokens_total") == 21_000


def test_the_number_of_series_does_not_grow(keeper: RecordKeeper, metrics: Metrics) -> None:
    def series() -> int:
        return sum(len(family.samples) for family in metrics.registry.collect())

    training = Training(keeper, metrics)
    training.step()
    training.log()
    before = series()
    for _ in range(1000):
        training.step()
        training.log()
        keeper.update(checkpoint_step=training.state.global_step)
    assert series() == before


def test_the_supervisor_finds_the_record_in_a_file(tmp_path: Path, metrics: Metrics) -> None:
    keeper = RecordKeeper(JOB, file=outcome.progress_file(tmp_path))
    keeper.update(activity="training", step=7, checkpoint_step=6)
    assert outcome.read_progress(tmp_path) == keeper.record


# --- HTTP ------------------------------------------------------------------------------------------------------------
def get(server: Endpoint, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=300) as answer:
        return answer.read()


@pytest.mark.races
def test_both_are_served_on_rank_0(keeper: RecordKeeper, metrics: Metrics) -> None:
    with Endpoint(metrics, keeper, port=0) as server:
        keeper.update(activity="training", step=3, loss=0.5)
        record = ProgressRecord.model_validate_json(get(server, "/progress"))
        assert record == keeper.record
        assert b'finetune_trainer_info{attempt="1"' in get(server, "/metrics")


@pytest.mark.races
def test_other_nodes_serve_metrics_only(metrics: Metrics) -> None:
    with Endpoint(metrics, None, port=0) as server:
        assert b"finetune_trainer_step" in get(server, "/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(server, "/progress")
        caught.value.close()


@pytest.mark.races
def test_a_nan_loss_is_served_as_json(keeper: RecordKeeper, metrics: Metrics) -> None:
    with Endpoint(metrics, keeper, port=0) as server:
        keeper.update(loss=float("nan"))
        assert ProgressRecord.model_validate_json(get(server, "/progress")).loss is None


@pytest.mark.races
def test_a_port_in_use_does_not_end_the_training(
    metrics: Metrics, keeper: RecordKeeper, capsys: pytest.CaptureFixture[str]
) -> None:
    with Endpoint(metrics, keeper, port=0) as first, Endpoint(metrics, keeper, port=first.port):
        assert get(first, "/progress")
    assert "training continues" in capsys.readouterr().out


# --- how much of the machine is used ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "want"), [("lora", 4.0), ("qlora", 4.0), ("full", 6.0), ("freeze", 6.0)])
def test_flops_of_a_token(method: str, want: float) -> None:
    assert flops_per_token(torch.nn.Linear(10, 10, bias=False), method) == want * 100


@pytest.mark.parametrize(("computes_bf16", "want"), [(True, {torch.bfloat16, torch.float32}), (False, {torch.float32})])
def test_a_precision_that_the_cpu_would_emulate_is_not_measured(
    computes_bf16: bool, want: set[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: set[torch.dtype] = set()

    def rate(kind: torch.dtype, seconds: float) -> float:
        measured.add(kind)
        return 1.0

    monkeypatch.setattr("finetune_trainer.pod.utilization._matmul_rate", rate)
    monkeypatch.setattr(device, "cpu", lambda: device.Device("cpu", "a CPU", computes_bf16=computes_bf16))
    peak_flops()
    assert measured == want


def test_the_measured_peak_leaves_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    assert peak_flops(seconds=0.02)
    assert torch.equal(torch.random.get_rng_state(), before)
