"""Deleting a FineTuneJob takes its pods along and keeps what it published, with and without an operator."""

from __future__ import annotations

import pytest

from dev.kit.jobs import Jobs
from dev.localcluster.waiting import until
from finetune_operator.ports import JOBS, PODS, SERVICES
from tests.e2e.test_interruptions import ENDLESS, step_of

pytestmark = [pytest.mark.cluster, pytest.mark.races]


def children(jobs: Jobs, name: str) -> list[str]:
    return [
        f"{resource.kind}/{child['metadata']['name']}"
        for resource in (JOBS, PODS, SERVICES)
        for child in jobs.children(name, resource)
    ]


@pytest.mark.parametrize(
    "replicas",
    [
        pytest.param(1, id="operator running"),
        pytest.param(0, id="operator scaled to 0", marks=pytest.mark.serial),
    ],
)
def test_deleting_a_training_job_leaves_no_child(platform, jobs: Jobs, replicas: int) -> None:
    name = jobs.apply(platform.tiny_job("doomed", **ENDLESS))
    jobs.wait(name, lambda job: step_of(job) > 0, what="training")
    try:
        platform.scale_operator(replicas)
        jobs.delete(name)
        until("the children are gone", lambda: children(jobs, name) == [], seconds=300)
    finally:
        platform.scale_operator(1)


def test_deleting_a_finished_job_keeps_what_it_published(platform, jobs: Jobs) -> None:
    name = jobs.apply(platform.tiny_job("kept", training__maxSteps=2))
    done = jobs.wait_succeeded(name)
    jobs.delete(name)
    until("the children are gone", lambda: children(jobs, name) == [], seconds=300)
    assert any(key.endswith("/manifest.json") for key in platform.published(done))
