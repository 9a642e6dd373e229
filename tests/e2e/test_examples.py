"""Every example is applied to a cluster exactly as it stands, and does what its comments say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev.kit.jobs import Jobs, Object, condition, load_example

pytestmark = [pytest.mark.cluster, pytest.mark.races]

FOLDER = Path(__file__).parents[2] / "examples"
TRAINS = [
    "lora.yaml",
    "qlora.yaml",
    "full-zero.yaml",
    "multi-node.yaml",
    "gpu-class.yaml",
    "article-1.yaml",
    "article-2.yaml",
]
ELSEWHERE = {
    "quickstart.yaml": "test_quickstart.py trains it",
    "suspend-resume.yaml": "has a test of its own below",
    "secret.yaml": "a template: its keys are placeholders; tests/api applies it as a dry run",
}


def job_of(name: str) -> Object:
    [job] = load_example(name)
    assert job["kind"] == "FineTuneJob"
    assert job["metadata"]["name"] == name.removesuffix(".yaml")
    return job


def test_every_example_is_applied_by_some_test() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*TRAINS, *ELSEWHERE}


@pytest.mark.parametrize("example", TRAINS)
def test_an_example_trains_to_a_verified_artifact(platform: Any, jobs: Jobs, example: str) -> None:
    job = job_of(example)
    done = jobs.wait_succeeded(jobs.apply(job))
    artifact = done["status"]["artifact"]
    assert artifact["uri"].startswith(job["spec"]["output"]["uri"] + "/")
    _, _, _, folder = artifact["uri"].split("/", 3)
    assert f"{folder.rstrip('/')}/manifest.json" in platform.published(job)
    check = CHECKS.get(example)
    if check:
        check(done, jobs)


def _runs_on_two_nodes(job: Object, jobs: Jobs) -> None:
    assert job["status"]["plan"]["nodes"] == 2
    assert len({pod["spec"]["nodeName"] for pod in jobs.pods(job["metadata"]["name"])}) == 2


def _has_two_processes(job: Object, jobs: Jobs) -> None:
    assert job["status"]["plan"]["processesPerNode"] == 2
    assert job["status"]["plan"]["globalBatchSize"] == 8


def _asked_for_a_gpu(job: Object, jobs: Jobs) -> None:
    [pod] = jobs.pods(job["metadata"]["name"])
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


CHECKS: dict[str, Callable[[Object, Jobs], None]] = {
    "multi-node.yaml": _runs_on_two_nodes,
    "full-zero.yaml": _has_two_processes,
    "gpu-class.yaml": _asked_for_a_gpu,
}


def test_the_suspended_example_waits_and_goes_on_from_its_checkpoint_when_it_is_stopped_on_the_way(jobs: Jobs) -> None:
    """The commands of its comments, in their order."""

    def suspend(wish: str) -> None:
        jobs.patch(name, f'{{"spec": {{"suspend": {wish}}}}}')

    def is_suspended(job: Object) -> bool:
        return condition(job, "Succeeded").get("reason") == "Suspended"

    name = jobs.apply(job_of("suspend-resume.yaml"))
    jobs.wait(name, is_suspended, what="suspended")
    assert not jobs.pods(name)

    suspend("false")
    jobs.wait(name, lambda job: job["status"].get("progress", {}).get("step", 0) >= 25, what="at step 25")
    suspend("true")
    stopped = jobs.wait(name, lambda job: is_suspended(job) and not jobs.pods(name), what="stopped")
    saved = stopped["status"]["checkpoint"]["step"]
    assert saved >= 25

    suspend("false")
    done = jobs.wait_succeeded(name)
    assert done["status"]["run"] == 1
    assert done["status"]["attempt"] == 2
    assert done["status"]["progress"]["step"] == 200
