"""Operator and trainer are scraped by a real Prometheus."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kit.jobs import Jobs, Object
from dev.kit.ports import ReservedPort
from dev.localcluster import packages
from dev.localcluster.waiting import until
from tests.e2e.test_interruptions import ENDLESS, step_of

pytestmark = [pytest.mark.cluster, pytest.mark.races]

TRAINER = [
    "finetune_trainer_step", "finetune_trainer_loss", "finetune_trainer_learning_rate", "finetune_trainer_grad_norm",
    "finetune_trainer_tokens_per_second", "finetune_trainer_tokens_total", "finetune_trainer_samples_total",
    "finetune_trainer_epoch", "finetune_trainer_eta_seconds", "finetune_trainer_mfu_ratio",
    "finetune_trainer_peak_memory_bytes", "finetune_trainer_last_checkpoint_step",
    "finetune_trainer_last_checkpoint_timestamp_seconds", "finetune_trainer_data_wait_seconds_total",
]  # fmt: skip
OPERATOR = [
    'finetune_operator_jobs{phase="Succeeded"}', "finetune_operator_reconcile_duration_seconds_count",
    "finetune_operator_reconcile_errors_total", "finetune_operator_workqueue_depth",
    'finetune_operator_kube_api_requests_total{code="201"}', "finetune_operator_attempts_total",
]  # fmt: skip


class Prometheus:
    """A server of Debian's package. That has no Kubernetes discovery: it is told its targets by a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, ReservedPort()
        self.url = f"http://127.0.0.1:{self.port.number}"
        discovery = {"files": [str(folder / "targets.json")], "refresh_interval": "1s"}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "pods", "file_sd_configs": [discovery]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def scrape(self, *pods: Object) -> None:
        """The port that each pod names for it: `metrics` of a trainer, `http` of the operator."""
        groups = [{"targets": [_target(pod)], "labels": {"pod": pod["metadata"]["name"]}} for pod in pods]
        (self.folder / "targets.json").write_text(json.dumps(groups))

    def __enter__(self) -> Prometheus:
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port.number}"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=300)
        self._log.close()

    def is_ready(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
            ) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []


def _target(pod: Object) -> str:
    [port] = [p for p in pod["spec"]["containers"][0]["ports"] if p["name"] in {"metrics", "http"}]
    return f"{pod['status']['podIP']}:{port['containerPort']}"


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    packages.ensure({"prometheus": "prometheus"})
    with Prometheus(tmp_path) as server:
        until("Prometheus is ready", server.is_ready, seconds=300)
        yield server


def test_a_real_prometheus_scrapes_operator_and_trainer(platform, jobs: Jobs, prometheus: Prometheus) -> None:
    jobs.wait_succeeded(jobs.apply(platform.tiny_job("over", training__maxSteps=2)))  # an attempt has ended
    name = jobs.apply(platform.tiny_job("measured", **ENDLESS))
    jobs.wait(name, lambda job: step_of(job) > 20, what="training")
    prometheus.scrape(platform.operator_pod(), *jobs.pods(name))

    def expect(metric: str) -> None:
        until(f"{metric} is scraped", lambda: bool(prometheus.query(metric)), seconds=240)

    for metric in [*TRAINER, *OPERATOR]:
        expect(metric)
    [step] = prometheus.query("max(finetune_trainer_step)")
    assert float(step["value"][1]) > 0
    series = prometheus.query('count({__name__=~"finetune_trainer_.*"})')
    assert int(series[0]["value"][1]) < 100  # bounded label sets
