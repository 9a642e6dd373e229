"""What a cluster does to a running job; each time it succeeds, from the newest verified checkpoint (P1, P2, P4)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from dev.kit.jobs import Jobs, Object
from dev.kit.podhistory import PodHistory
from dev.localcluster.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.races]

EVERY = 40
ENDLESS = {"training__maxSteps": None, "training__epochs": 1000, "training__perDeviceBatchSize": 1}
"""Some 40,000 steps: a training that outlasts any test, so what a test has seen of it is still so when it acts."""
LONG = {"training__maxSteps": 280, "checkpoint__everySteps": EVERY}


def step_of(job: Object) -> int:
    return int(job.get("status", {}).get("progress", {}).get("step", 0))


def is_past_a_checkpoint(job: Object) -> bool:
    return int(job.get("status", {}).get("checkpoint", {}).get("step", 0)) >= EVERY and step_of(job) > EVERY


def resumed_step(jobs: Jobs, name: str) -> int:
    """From the log of the newest pod: where it took up the training."""
    [pod] = [pod for pod in jobs.pods(name) if pod["metadata"]["labels"]["finetune.dev/attempt"] != "1"]
    log = jobs.kubectl("-n", jobs.namespace, "logs", pod["metadata"]["name"])
    found = re.search(r"resum\w+ .*?step[ -](\d+)", log)
    assert found, log
    return int(found[1])


def delete_pod(platform, jobs: Jobs, pod: Object) -> None:
    jobs.kubectl("-n", jobs.namespace, "delete", "pod", pod["metadata"]["name"], "--wait=false")


def drain_node(platform, jobs: Jobs, pod: Object) -> None:
    ours = f"--pod-selector=finetune.dev/job-name={pod['metadata']['labels']['finetune.dev/job-name']}"
    words = ("--ignore-daemonsets", "--force", "--delete-emptydir-data", ours)
    jobs.kubectl("drain", pod["spec"]["nodeName"], *words, timeout=180)


def kill_supervisor(platform, jobs: Jobs, pod: Object) -> None:
    """SIGKILL to PID 1 of the container, from the node: no grace, no record."""
    platform.kill_container(pod)


@pytest.mark.parametrize(
    ("interrupt", "may_lose"),
    [
        pytest.param(delete_pod, 0, id="a deleted pod saves first and loses nothing"),
        pytest.param(drain_node, 0, id="a drained node lets it save first and loses nothing", marks=pytest.mark.serial),
        pytest.param(kill_supervisor, EVERY, id="a killed container loses at most one interval"),
    ],
)
def test_an_interrupted_attempt_goes_on_from_the_newest_verified_checkpoint(
    platform, jobs: Jobs, interrupt: Callable[..., None], may_lose: int
) -> None:
    name = jobs.apply(platform.tiny_job("interrupted", **LONG))
    with PodHistory(jobs.kubectl, jobs.namespace) as history:
        seen = jobs.wait(name, is_past_a_checkpoint, what="past its first checkpoint")
        [pod] = jobs.pods(name)
        try:
            interrupt(platform, jobs, pod)
            done = jobs.wait_succeeded(name)
        finally:
            jobs.kubectl("uncordon", pod["spec"]["nodeName"])
    assert done["status"]["attempt"] == 2
    assert resumed_step(jobs, name) >= step_of(seen) - may_lose
    assert done["status"].get("failures", 0) == (1 if interrupt is kill_supervisor else 0)
    assert {rank: len(uids) for rank, uids in history.uids_by_rank().items() if len(uids) != 1} == {}
    assert history.overlaps == []


@pytest.mark.serial
def test_operator_and_api_server_may_die_without_a_running_job_noticing(platform, jobs: Jobs) -> None:
    name = jobs.apply(platform.tiny_job("undisturbed", **LONG))
    with PodHistory(jobs.kubectl, jobs.namespace) as history:
        jobs.wait(name, lambda job: step_of(job) > 0, what="training")
        platform.kill_operator()
        platform.restart_api_server()
        until("the operator is back", platform.operator_is_ready, seconds=300, pause=0.5)
        done = jobs.wait_succeeded(name)
    assert done["status"]["attempt"] == 1
    assert {rank: len(uids) for rank, uids in history.uids_by_rank().items()} == {(name, "1", "1", "0"): 1}


def test_a_suspended_job_saves_and_goes_on_where_it_was(platform, jobs: Jobs) -> None:
    name = jobs.apply(platform.tiny_job("suspended", **LONG))
    seen = jobs.wait(name, is_past_a_checkpoint, what="past its first checkpoint")
    jobs.patch(name, '{"spec": {"suspend": true}}')
    jobs.wait(name, lambda job: job["status"]["phase"] == "Suspended", what="suspended")
    until("its pods are gone", lambda: not jobs.pods(name), seconds=300)
    jobs.patch(name, '{"spec": {"suspend": false}}')
    done = jobs.wait_succeeded(name)
    assert done["status"]["run"] == 1
    assert resumed_step(jobs, name) >= step_of(seen)
