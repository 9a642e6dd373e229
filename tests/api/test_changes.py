"""What a person changes while a job is under way, and what of the cluster changes under it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dev.kit.jobs import condition
from dev.localcluster.waiting import until
from finetune_operator.ports import GPUCLASSES, JOBS, NODES, PODS
from tests.api.fakekubelet import NODE_LABEL, FakeKubelet
from tests.builders.records import prepared_record, stopped_record, trained_record

pytestmark = pytest.mark.races


def test_suspend_stops_the_pods_and_resume_goes_on_with_the_next_attempt(kubelet: FakeKubelet) -> None:
    kubelet.apply("pause")
    kubelet.prepare("pause", prepared_record())
    kubelet.run("pause", "pause-r1-a1")
    kubelet.wait("pause", "training", lambda job: job["status"]["phase"] == "Training")

    kubelet.change("pause", suspend=True)
    job = kubelet.wait("pause", "suspended", lambda job: job["status"]["phase"] == "Suspended")
    assert condition(job, "Succeeded")["reason"] == "Suspended"
    assert not [
        job for job in kubelet.api.children(JOBS, kubelet.namespace, "pause") if "a1" in job["metadata"]["name"]
    ]
    assert job["spec"]["suspend"] is True

    kubelet.change("pause", suspend=False)
    kubelet.end(kubelet.run("pause", "pause-r1-a2"), 0, trained_record(attempt=2))
    job = kubelet.wait_finished("pause")
    assert job["status"]["run"] == 1
    assert not job["status"].get("failures")


def test_a_job_created_suspended_waits(kubelet: FakeKubelet) -> None:
    kubelet.apply("asleep", suspend=True)
    kubelet.wait("asleep", "suspended", lambda job: (job.get("status") or {}).get("phase") == "Suspended")
    assert not kubelet.api.children(JOBS, kubelet.namespace, "asleep")
    kubelet.change("asleep", suspend=False)
    kubelet.job("asleep", "asleep-r1-p1")


def test_a_change_of_the_spec_starts_a_new_run_after_the_old_pods_are_gone(kubelet: FakeKubelet) -> None:
    kubelet.apply("edit")
    kubelet.prepare("edit", prepared_record())
    kubelet.run("edit", "edit-r1-a1")
    kubelet.wait("edit", "training", lambda job: job["status"]["phase"] == "Training")

    kubelet.change("edit", training__learningRate=0.001)
    kubelet.job("edit", "edit-r2-p1")
    assert [
        job for job in kubelet.api.children(JOBS, kubelet.namespace, "edit") if "r1-a1" in job["metadata"]["name"]
    ] == []
    kubelet.prepare("edit", prepared_record(), run=2)
    kubelet.end(kubelet.run("edit", "edit-r2-a1"), 0, trained_record())
    assert kubelet.wait_finished("edit")["status"]["run"] == 2


def test_a_change_of_retries_alone_starts_nothing(kubelet: FakeKubelet) -> None:
    kubelet.apply("knob")
    kubelet.prepare("knob", prepared_record())
    kubelet.end(kubelet.run("knob", "knob-r1-a1"), 0, trained_record())
    kubelet.wait_finished("knob")
    kubelet.change("knob", retries=7)
    job = kubelet.wait("knob", "observed", lambda job: job["status"]["observedGeneration"] == 2)
    assert job["status"]["run"] == 1
    assert condition(job, "Succeeded")["status"] == "True"


def test_the_restart_annotation_runs_a_finished_job_again(kubelet: FakeKubelet) -> None:
    kubelet.apply("again")
    kubelet.prepare("again", prepared_record())
    kubelet.end(kubelet.run("again", "again-r1-a1"), 0, trained_record())
    kubelet.wait_finished("again")

    kubelet.annotate("again", restartedAt="2026-01-01T00:00:00Z")
    kubelet.prepare("again", prepared_record(), run=2)
    kubelet.end(kubelet.run("again", "again-r2-a1"), 0, trained_record())
    job = kubelet.wait(
        "again", "run 2", lambda job: job["status"]["run"] == 2 and job["status"]["phase"] == "Succeeded"
    )
    assert job["status"]["restartedAt"] == "2026-01-01T00:00:00Z"


def test_a_stop_on_request_goes_on_from_the_checkpoint(kubelet: FakeKubelet) -> None:
    kubelet.apply("drain")
    kubelet.prepare("drain", prepared_record())
    kubelet.end(kubelet.run("drain", "drain-r1-a1"), 85, stopped_record(40))
    job = kubelet.wait("drain", "attempt 2", lambda job: job["status"].get("attempt") == 2)
    assert job["status"]["checkpoint"]["step"] == 40
    kubelet.end(kubelet.run("drain", "drain-r1-a2"), 0, trained_record(attempt=2))
    assert not kubelet.wait_finished("drain")["status"].get("failures")


def test_a_foreign_job_of_our_name_is_left_alone_and_named(kubelet: FakeKubelet) -> None:
    container = {"name": "theirs", "image": "theirs", "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    foreign = {"metadata": {"name": "theirs-r1-p1"}, "spec": {"suspend": True, "template": template}}
    kubelet.api.create(JOBS, kubelet.namespace, {"apiVersion": "batch/v1", "kind": "Job", **foreign})

    kubelet.apply("theirs")
    job = kubelet.wait_reason("theirs", "Conflict")
    assert "theirs-r1-p1" in condition(job, "Succeeded")["message"]
    assert kubelet.api.get(JOBS, kubelet.namespace, "theirs-r1-p1")["spec"]["template"]["spec"]["containers"][0]["name"]

    kubelet.api.delete(JOBS, kubelet.namespace, "theirs-r1-p1")
    kubelet.annotate("theirs", note="look")  # or wait for the next look
    kubelet.wait("theirs", "going on", lambda job: condition(job, "Succeeded")["reason"] != "Conflict", seconds=300)


def test_missing_labels_are_named_and_a_label_that_comes_is_taken_up(
    kubelet: FakeKubelet, figure: Callable[[str, object], None]
) -> None:
    scarce = kubelet.add_class("scarce", name=f"{kubelet.name}-scarce", resourceName="nvidia.com/gpu", memory="79Gi")
    started = time.monotonic()
    kubelet.apply("picky", resources__gpuClass=scarce)
    job = kubelet.wait_reason("picky", "NoMatchingNodes", "Planned")
    figure("apply to missing labels named, s", round(time.monotonic() - started, 2))
    message = condition(job, "Planned")["message"]
    assert f"{NODE_LABEL} In [scarce]" in message, message
    node = kubelet.add_node("late", labels={})
    kubelet.api.patch(NODES, None, node, {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}, subresource="status")
    kubelet.api.patch(NODES, None, node, {"metadata": {"labels": {NODE_LABEL: "scarce"}}})
    kubelet.wait("picky", "matched", lambda job: condition(job, "Planned")["status"] == "True")
    status = until(
        "the node is counted",
        lambda: kubelet.api.get(GPUCLASSES, None, scarce).get("status", {}).get("nodes"),
        seconds=300,
        explain=kubelet.log,
    )
    assert status == 1
    assert kubelet.api.get(GPUCLASSES, None, scarce)["status"]["devices"] == 8


def test_an_unknown_class_is_named_and_taken_up_when_it_comes(kubelet: FakeKubelet) -> None:
    name = f"{kubelet.name}-unborn"
    kubelet.apply("unborn", resources__gpuClass=name)
    job = kubelet.wait_reason("unborn", "GPUClassNotFound")
    assert name in condition(job, "Succeeded")["message"]
    assert not kubelet.api.children(JOBS, kubelet.namespace, "unborn")
    kubelet.add_class(name=name)
    kubelet.job("unborn", "unborn-r1-p1")


def test_a_child_deleted_by_hand_is_replaced(kubelet: FakeKubelet) -> None:
    kubelet.apply("orphan")
    kubelet.prepare("orphan", prepared_record())
    kubelet.run("orphan", "orphan-r1-a1")
    kubelet.wait("orphan", "training", lambda job: job["status"]["phase"] == "Training")
    kubelet.api.delete(JOBS, kubelet.namespace, "orphan-r1-a1")
    kubelet.end(kubelet.run("orphan", "orphan-r1-a2"), 0, trained_record(attempt=2))
    kubelet.wait_finished("orphan")
    assert kubelet.api.children(PODS, kubelet.namespace, "orphan")
