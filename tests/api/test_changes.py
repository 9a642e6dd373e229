"""What a person changes while a job is under way, and what of the cluster changes under it."""

from __future__ import annotations

import time
from collections.abc import Callable

from dev.kit.jobs import condition
from dev.localcluster.waiting import until
from finetune_operator.ports import GPUCLASSES, JOBS, NODES, PODS
from tests.api.fakekubelet import NODE_LABEL, FakeKubelet
from tests.builders.records import prepared_record, stopped_record, trained_record


def test_suspend_stops_the_pods_and_resume_goes_on_with_the_next_attempt(hand: FakeKubelet) -> None:
    hand.apply("pause")
    hand.prepare("pause", prepared_record())
    hand.run("pause", "pause-r1-a1")
    hand.wait("pause", "training", lambda job: job["status"]["phase"] == "Training")

    hand.change("pause", suspend=True)
    job = hand.wait("pause", "suspended", lambda job: job["status"]["phase"] == "Suspended")
    assert condition(job, "Succeeded")["reason"] == "Suspended"
    assert not [job for job in hand.api.children(JOBS, hand.namespace, "pause") if "a1" in job["metadata"]["name"]]
    assert job["spec"]["suspend"] is True

    hand.change("pause", suspend=False)
    hand.end(hand.run("pause", "pause-r1-a2"), 0, trained_record(attempt=2))
    job = hand.wait_finished("pause")
    assert job["status"]["run"] == 1
    assert not job["status"].get("failures")


def test_a_job_created_suspended_waits(hand: FakeKubelet) -> None:
    hand.apply("asleep", suspend=True)
    hand.wait("asleep", "suspended", lambda job: (job.get("status") or {}).get("phase") == "Suspended")
    assert not hand.api.children(JOBS, hand.namespace, "asleep")
    hand.change("asleep", suspend=False)
    hand.job("asleep", "asleep-r1-p1")


def test_a_change_of_the_spec_starts_a_new_run_after_the_old_pods_are_gone(hand: FakeKubelet) -> None:
    hand.apply("edit")
    hand.prepare("edit", prepared_record())
    hand.run("edit", "edit-r1-a1")
    hand.wait("edit", "training", lambda job: job["status"]["phase"] == "Training")

    hand.change("edit", training__learningRate=0.001)
    hand.job("edit", "edit-r2-p1")
    assert [job for job in hand.api.children(JOBS, hand.namespace, "edit") if "r1-a1" in job["metadata"]["name"]] == []
    hand.prepare("edit", prepared_record(), run=2)
    hand.end(hand.run("edit", "edit-r2-a1"), 0, trained_record())
    assert hand.wait_finished("edit")["status"]["run"] == 2


def test_a_change_of_retries_alone_starts_nothing(hand: FakeKubelet) -> None:
    hand.apply("knob")
    hand.prepare("knob", prepared_record())
    hand.end(hand.run("knob", "knob-r1-a1"), 0, trained_record())
    hand.wait_finished("knob")
    hand.change("knob", retries=7)
    job = hand.wait("knob", "observed", lambda job: job["status"]["observedGeneration"] == 2)
    assert job["status"]["run"] == 1
    assert condition(job, "Succeeded")["status"] == "True"


def test_the_restart_annotation_runs_a_finished_job_again(hand: FakeKubelet) -> None:
    hand.apply("again")
    hand.prepare("again", prepared_record())
    hand.end(hand.run("again", "again-r1-a1"), 0, trained_record())
    hand.wait_finished("again")

    hand.annotate("again", restartedAt="2026-01-01T00:00:00Z")
    hand.prepare("again", prepared_record(), run=2)
    hand.end(hand.run("again", "again-r2-a1"), 0, trained_record())
    job = hand.wait("again", "run 2", lambda job: job["status"]["run"] == 2 and job["status"]["phase"] == "Succeeded")
    assert job["status"]["restartedAt"] == "2026-01-01T00:00:00Z"


def test_a_stop_on_request_goes_on_from_the_checkpoint(hand: FakeKubelet) -> None:
    hand.apply("drain")
    hand.prepare("drain", prepared_record())
    hand.end(hand.run("drain", "drain-r1-a1"), 85, stopped_record(40))
    job = hand.wait("drain", "attempt 2", lambda job: job["status"].get("attempt") == 2)
    assert job["status"]["checkpoint"]["step"] == 40
    hand.end(hand.run("drain", "drain-r1-a2"), 0, trained_record(attempt=2))
    assert not hand.wait_finished("drain")["status"].get("failures")


def test_a_foreign_job_of_our_name_is_left_alone_and_named(hand: FakeKubelet) -> None:
    container = {"name": "theirs", "image": "theirs", "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    foreign = {"metadata": {"name": "theirs-r1-p1"}, "spec": {"suspend": True, "template": template}}
    hand.api.create(JOBS, hand.namespace, {"apiVersion": "batch/v1", "kind": "Job", **foreign})

    hand.apply("theirs")
    job = hand.wait_reason("theirs", "Conflict")
    assert "theirs-r1-p1" in condition(job, "Succeeded")["message"]
    assert hand.api.get(JOBS, hand.namespace, "theirs-r1-p1")["spec"]["template"]["spec"]["containers"][0]["name"]

    hand.api.delete(JOBS, hand.namespace, "theirs-r1-p1")
    hand.annotate("theirs", note="look")  # or wait for the next look
    hand.wait("theirs", "going on", lambda job: condition(job, "Succeeded")["reason"] != "Conflict", seconds=90)


def test_missing_labels_are_named_and_a_label_that_comes_is_taken_up(
    hand: FakeKubelet, figure: Callable[[str, object], None]
) -> None:
    scarce = hand.add_class("scarce", name=f"{hand.name}-scarce", resourceName="nvidia.com/gpu", memory="79Gi")
    started = time.monotonic()
    hand.apply("picky", resources__gpuClass=scarce)
    job = hand.wait_reason("picky", "NoMatchingNodes", "Planned")
    figure("apply to missing labels named, s", round(time.monotonic() - started, 2))
    message = condition(job, "Planned")["message"]
    assert f"{NODE_LABEL} In [scarce]" in message, message
    node = hand.add_node("late", labels={})
    hand.api.patch(NODES, None, node, {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}, subresource="status")
    hand.api.patch(NODES, None, node, {"metadata": {"labels": {NODE_LABEL: "scarce"}}})
    hand.wait("picky", "matched", lambda job: condition(job, "Planned")["status"] == "True")
    status = until(
        "the node is counted",
        lambda: hand.api.get(GPUCLASSES, None, scarce).get("status", {}).get("nodes"),
        seconds=60,
        explain=hand.log,
    )
    assert status == 1
    assert hand.api.get(GPUCLASSES, None, scarce)["status"]["devices"] == 8


def test_an_unknown_class_is_named_and_taken_up_when_it_comes(hand: FakeKubelet) -> None:
    name = f"{hand.name}-unborn"
    hand.apply("unborn", resources__gpuClass=name)
    job = hand.wait_reason("unborn", "GPUClassNotFound")
    assert name in condition(job, "Succeeded")["message"]
    assert not hand.api.children(JOBS, hand.namespace, "unborn")
    hand.add_class(name=name)
    hand.job("unborn", "unborn-r1-p1")


def test_a_child_deleted_by_hand_is_replaced(hand: FakeKubelet) -> None:
    hand.apply("orphan")
    hand.prepare("orphan", prepared_record())
    hand.run("orphan", "orphan-r1-a1")
    hand.wait("orphan", "training", lambda job: job["status"]["phase"] == "Training")
    hand.api.delete(JOBS, hand.namespace, "orphan-r1-a1")
    hand.end(hand.run("orphan", "orphan-r1-a2"), 0, trained_record(attempt=2))
    hand.wait_finished("orphan")
    assert hand.api.children(PODS, hand.namespace, "orphan")
