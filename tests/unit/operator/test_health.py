"""What a probe hears, and what a scrape gets."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from finetune_operator.health import SILENT_AFTER_SECONDS, STALLED_AFTER_SECONDS, Checks, Server
from finetune_operator.metrics import Metrics, ended_attempts

WELL = Checks(
    stalled_for=lambda: 0.0, silent_for=lambda: 400.0, is_synced=lambda: True, render_metrics=Metrics("1.2").render
)


async def asked(checks: Checks, path: str) -> tuple[int, str]:
    async with (
        Server(checks, 0) as server,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}") as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.races
@pytest.mark.parametrize(
    ("checks", "path", "want"),
    [
        pytest.param(WELL, "/healthz", 200, id="healthy"),
        pytest.param(WELL, "/readyz", 200, id="ready"),
        pytest.param(replace(WELL, is_synced=lambda: False), "/readyz", 503, id="not listed yet"),
        pytest.param(replace(WELL, is_synced=lambda: False), "/healthz", 200, id="alive before it is ready"),
        pytest.param(replace(WELL, stalled_for=lambda: STALLED_AFTER_SECONDS + 1), "/healthz", 503, id="stuck"),
        pytest.param(replace(WELL, silent_for=lambda: SILENT_AFTER_SECONDS + 1), "/healthz", 503, id="cut off"),
    ],
)
async def test_a_probe(checks: Checks, path: str, want: int) -> None:
    assert (await asked(checks, path))[0] == want


async def test_metrics_have_standard_names_and_units() -> None:
    metrics = Metrics("1.2", count_jobs=lambda: {"Training": 2, "Odd": 1}, queue_depth=lambda: 4)
    metrics.reconciled(0.2)
    metrics.failed("Retryable")
    metrics.waited(0.1)
    metrics.requested("get", "pods", "200")
    metrics.leads(True)
    metrics.attempt_ended("OOMKilled")
    _, text = await asked(replace(WELL, render_metrics=metrics.render), "/metrics")
    for line in (
        'finetune_operator_jobs{phase="Training"} 2.0',
        'finetune_operator_jobs{phase="Failed"} 0.0',
        'finetune_operator_jobs{phase="Odd"} 1.0',
        "finetune_operator_workqueue_depth 4.0",
        "finetune_operator_workqueue_latency_seconds_count 1.0",
        "finetune_operator_reconcile_duration_seconds_count 1.0",
        'finetune_operator_reconcile_errors_total{kind="Retryable"} 1.0',
        'finetune_operator_kube_api_requests_total{code="200",resource="pods",verb="get"} 1.0',
        'finetune_operator_attempts_total{reason="OOMKilled"} 1.0',
        "finetune_operator_leader 1.0",
        'finetune_operator_build_info{version="1.2"} 1.0',
        "process_resident_memory_bytes ",
    ):
        assert line in text


def test_reasons_from_outside_are_bounded() -> None:
    metrics = Metrics("1")
    for index in range(1_000):
        metrics.attempt_ended(f"Invented{index}")
    text = metrics.render().decode()
    assert text.count("finetune_operator_attempts_total{") == 65
    assert 'reason="Other"} 936.0' in text


def test_an_attempt_is_counted_once() -> None:
    first = {"run": 1, "role": "train", "attempt": 1, "time": "t1", "reason": "OOMKilled"}
    second = {"run": 1, "role": "train", "attempt": 2, "time": "t2", "reason": "Succeeded"}
    assert ended_attempts({"history": [first]}, {"history": [second, first]}) == ["Succeeded"]
    assert ended_attempts({}, {"history": [first]}) == ["OOMKilled"]
    assert ended_attempts({"history": [first]}, {}) == []
