"""A job for a GPU class runs on nodes of that class and nowhere else; real scheduler, fake devices."""

from __future__ import annotations

import time

import pytest

from dev.kit.jobs import Jobs, condition

pytestmark = pytest.mark.cluster

GPU = {"resources__gpuClass": "a100-80gb", "resources__gpusPerNode": 1}


@pytest.mark.serial
@pytest.mark.parametrize("scheme", ["gfd", "gke", "karpenter"])
def test_a_job_lands_on_the_node_that_carries_its_class_in_any_scheme(platform, jobs: Jobs, scheme: str) -> None:
    with platform.gpu_node(scheme) as node:
        name = jobs.apply(platform.tiny_job("placed", training__maxSteps=2, **GPU))
        jobs.wait(name, lambda job: bool(jobs.pods(name)), what="given a training pod")
        jobs.wait(name, lambda job: jobs.pods(name)[0]["spec"].get("nodeName") == node, what=f"placed on {node}")
        jobs.delete(name)


def test_a_gpu_job_trains_through_when_the_class_has_a_node(platform, jobs: Jobs) -> None:
    name = jobs.apply(platform.tiny_job("on-gpu", training__maxSteps=4, **GPU))
    done = jobs.wait_succeeded(name)
    [pod] = jobs.pods(name)
    assert pod["spec"]["nodeName"] == platform.gpu_node_name
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert done["status"]["plan"]["gpuClass"] == "a100-80gb"


def test_a_class_without_a_node_says_which_labels_are_missing_on_how_many_nodes(platform, jobs: Jobs) -> None:
    started = time.monotonic()
    name = jobs.apply(platform.tiny_job("nowhere", resources__gpuClass="h100-80gb"))
    job = jobs.wait(
        name, lambda job: condition(job, "Planned").get("reason") == "NoMatchingNodes", what="explained", seconds=20
    )
    print(f"explained {time.monotonic() - started:.1f} s after apply")
    message = condition(job, "Planned")["message"]
    assert "nvidia.com/gpu.product" in message
    assert "2 of 2 nodes" in message
