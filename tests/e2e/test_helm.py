"""Install, upgrade and uninstall by Helm while a job runs: it goes on, and the objects stay."""

from __future__ import annotations

import pytest

from dev.kit.jobs import Jobs
from dev.localcluster.waiting import until
from tests.e2e.test_interruptions import ENDLESS, step_of

pytestmark = [pytest.mark.cluster, pytest.mark.serial, pytest.mark.races]


def test_a_running_job_survives_upgrade_uninstall_and_install(platform, jobs: Jobs) -> None:
    name = jobs.apply(platform.tiny_job("survivor", **ENDLESS))
    jobs.wait(name, lambda job: step_of(job) > 0, what="training")

    platform.chart.install({**platform.values, "log": {"level": "debug"}})
    [pod] = jobs.pods(name)
    assert pod["status"]["phase"] == "Running"
    assert "deletionTimestamp" not in pod["metadata"]

    platform.chart.uninstall()
    assert not platform.kubectl.succeeds("-n", "finetune-system", "get", "deployment", "finetune-operator")
    assert jobs.exists(name)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(name)} == {pod["metadata"]["uid"]}

    seen = step_of(jobs.get(name))  # of an object that nobody writes to now

    platform.install()
    until("the operator is back", platform.operator_is_ready, seconds=300, pause=0.5)
    now = jobs.wait(name, lambda job: step_of(job) > seen, what="followed again by the operator")
    assert (now["status"]["run"], now["status"]["attempt"]) == (1, 1)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(name)} == {pod["metadata"]["uid"]}
