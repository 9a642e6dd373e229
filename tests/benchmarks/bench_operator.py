"""Latency, API writes and memory of the operator on a real control plane → build/bench/operator.json.

    uv run python -m tests.benchmarks.bench_operator [--jobs 20] [--rest 60]

The control plane, the operator and this program share the machine: figures are comparable with themselves only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.kit import entrypoint
from dev.kit.apiserver import ApiServer
from dev.localcluster import connect
from dev.localcluster.console import console, step
from dev.localcluster.waiting import until
from finetune_operator.ports import PODS
from tests.api import crds
from tests.api.conftest import scene
from tests.api.fakekubelet import FakeKubelet
from tests.api.operatorprocess import OperatorProcess
from tests.builders.records import prepared_record, trained_record
from tests.conftest import refuse_foreign, write_kubeconfig

OUTPUT = Path(__file__).parents[2] / "build" / "bench" / "operator.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20, help="FineTuneJobs of the measurement")
    parser.add_argument("--rest", type=float, default=60, help="seconds at rest")
    words = parser.parse_args()

    cluster = connect()
    refuse_foreign(cluster.context)
    with step("control plane and CRDs"):
        cluster.ensure_control_plane()
        crds.install(cluster.kubectl)
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = write_kubeconfig(cluster, Path(folder) / "kubeconfig")
        api = ApiServer(kubeconfig)
        with scene(cluster, api, "bench") as kubelet:
            operator = OperatorProcess(kubeconfig, Path(folder) / "log", kubelet.namespace)
            with step("operator: started and ready"):
                operator.start()
            try:
                figures = measure(kubelet, operator, words.jobs, words.rest)
            finally:
                operator.stop()
        api.close()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    return 0


def measure(kubelet: FakeKubelet, operator: OperatorProcess, jobs: int, rest: float) -> dict[str, Any]:
    before = operator.writes()
    to_prepare_pod, to_training_pod = [], []
    with step(f"{jobs} jobs, one after another") as show:
        for index in range(jobs):
            show(f"job {index + 1} of {jobs}")
            name = f"job-{index}"
            started = time.monotonic()
            kubelet.apply(name)
            prepare = wait_pod(kubelet, f"{name}-r1-p1")
            to_prepare_pod.append(time.monotonic() - started)
            kubelet.end([prepare], 0, prepared_record())
            ended = time.monotonic()
            train = wait_pod(kubelet, f"{name}-r1-a1")
            to_training_pod.append(time.monotonic() - ended)
            kubelet.end([train], 0, trained_record())
            kubelet.wait_finished(name)
    writes = operator.writes() - before

    time.sleep(2)  # the last event is on its way
    at_rest = operator.writes()
    with step("operator at rest: writes counted") as show:
        rest_for(rest, show)
    return {
        "jobs": jobs,
        "apply_to_preparation_pod_seconds": summary(to_prepare_pod),
        "preparation_end_to_training_pod_seconds": summary(to_training_pod),
        "apply_to_training_pod_without_preparation_seconds": summary(
            [sum(pair) for pair in zip(to_prepare_pod, to_training_pod, strict=True)]
        ),
        "writes_per_job_without_progress_and_leases": round(writes.total() / jobs, 2),
        "writes_per_job": per_job(writes, jobs),
        "writes_at_rest_per_minute": (operator.writes() - at_rest).total() * 60 / rest,
        "rss_bytes": operator.rss_bytes(),
    }


def rest_for(seconds: float, show: Callable[[str], None]) -> None:
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        show(f"{left:.0f} s left")
        time.sleep(min(1.0, left))


def wait_pod(kubelet: FakeKubelet, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = kubelet.api.list(PODS, kubelet.namespace, **{"batch.kubernetes.io/job-name": job})
        return found[0] if found else None

    return until(f"the pod of {job} is created", look, seconds=60, pause=0.01)


def per_job(writes: Counter[str], jobs: int) -> dict[str, float]:
    return {what: round(count / jobs, 2) for what, count in sorted(writes.items())}


def summary(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


if __name__ == "__main__":
    cure = "`make status` shows the cluster; then run `make bench-operator` again."
    sys.exit(entrypoint.exit_code(main, console, cure=cure, interrupted="Stopped. `make down` stops the cluster."))
