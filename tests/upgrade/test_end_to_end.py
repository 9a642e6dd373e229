"""A whole release on a real cluster, upgraded while a job trains, by the commands of docs/install.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.kit.chart import CHART, DEPLOYMENT, NAMESPACE, RELEASE, image_values, prepare_cluster
from dev.kit.jobs import Jobs, Object
from dev.kit.platform import Platform
from dev.localcluster.commands import output_of
from tests.e2e.conftest import jobs, platform
from tests.upgrade import released
from tests.upgrade.released import FIXTURES

__all__ = ["jobs", "platform"]

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.serial]


@pytest.fixture
def released_platform(platform: Platform, tmp_path: Path) -> Iterator[Platform]:
    """CRDs, chart and operator of the release in place of today's. Its trainer is tested without a cluster: a second
    trainer image would cost minutes and gigabytes."""
    checkout = released.unpack(tmp_path / "release")
    operator_image = build_operator_image(checkout)
    platform.chart.uninstall()
    platform.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(FIXTURES / "crds"))
    platform.chart.install(
        {**image_values(operator_image, platform.trainer_image), "progressIntervalSeconds": 1},
        chart=checkout / "helm" / "finetune-operator",
    )
    assert running_image(platform) == operator_image
    yield platform
    platform.install()


def test_a_training_job_finishes_in_the_same_attempt(released_platform: Platform, jobs: Jobs) -> None:
    name = jobs.apply(released_platform.tiny_job("survivor", training__maxSteps=500))
    jobs.wait(name, lambda job: step_of(job) > 0, what="training")
    [before] = jobs.pods(name)

    prepare_cluster(released_platform.kubectl)  # the CRDs
    upgrade_chart(released_platform)
    assert running_image(released_platform) == released_platform.operator_image
    [after] = jobs.pods(name)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]

    status = jobs.wait_succeeded(name)["status"]
    assert (status["run"], status["attempt"], status.get("failures", 0)) == (1, 1, 0)


def step_of(job: Object) -> int:
    return int(job.get("status", {}).get("progress", {}).get("step", 0))


def build_operator_image(checkout: Path) -> str:
    """By the release's own local cluster, which shares store and registry with today's. What the lock says is a layer
    that exists; only the code is added."""
    code = "from tests.localcluster import connect; print('image:', connect().image('operator'))"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, timeout=550
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return built.stdout.rpartition("image: ")[2].strip()


def upgrade_chart(platform: Platform) -> None:
    """As documented: with the values that are there. What a new value does when it is absent is part of the test."""
    image = json.dumps(image_values(platform.operator_image, platform.trainer_image))
    cluster = platform.cluster
    output_of(
        str(cluster.helm), f"--kubeconfig={cluster.kubeconfig}", f"--kube-context={cluster.context}",
        "upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE, "--reuse-values", "--values", "-",
        "--wait", "--timeout=5m", stdin=image, timeout=330,
    )  # fmt: skip


def running_image(platform: Platform) -> str:
    deployment = platform.kubectl.get("-n", NAMESPACE, "deployment", DEPLOYMENT)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"])
