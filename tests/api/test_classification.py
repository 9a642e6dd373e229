"""What becomes of a job when a pod ends, fails to start, or is taken away: every exit code, every cause."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dev.kit.jobs import condition
from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import TerminationRecord
from tests.api.fakekubelet import FakeKubelet
from tests.builders.records import failed_record, prepared_record, stopped_record


@dataclass(frozen=True)
class End:
    """How the training pod ends, and what has to be said about it."""

    code: int
    want_reason: str
    want: str
    """`final`, `counted` or `uncounted`."""
    record: TerminationRecord | None = None
    reason: str = ""
    disruption: str = ""


ENDS = {
    "a wrong configuration is final": End(
        2,
        "InvalidConfiguration",
        "final",
        failed_record(2, "InvalidConfiguration", "model.source: there is no such model"),
    ),
    "bad data is final": End(3, "InvalidData", "final", failed_record(3, "InvalidData", "line 3: not JSON")),
    "no checkpoint that verifies is final": End(
        4, "NoValidCheckpoint", "final", failed_record(4, "NoValidCheckpoint", "none of 2 verifies")
    ),
    "the accelerator's memory is final": End(
        71, "AcceleratorOutOfMemory", "final", failed_record(71, "AcceleratorOutOfMemory", "tried to allocate 2 GiB")
    ),
    "a diverged loss is final": End(72, "Diverged", "final", failed_record(72, "Diverged", "loss is NaN at step 7")),
    "a transient failure counts": End(
        75, "StorageUnavailable", "counted", failed_record(75, "StorageUnavailable", "503 SlowDown")
    ),
    "a stop on request does not count": End(ExitCode.STOPPED_AFTER_SAVE, "Stopped", "uncounted", stopped_record(20)),
    "85 without a record does not count": End(85, "Stopped", "uncounted"),
    "Python's own 1 counts as a crash": End(1, "Crashed", "counted"),
    "argparse's 2 without a record is no verdict": End(2, "Crashed", "counted"),
    "a record of another code is no verdict": End(1, "Crashed", "counted", failed_record(3, "InvalidData", "stale")),
    "the kernel's out-of-memory kill counts": End(137, "OOMKilled", "counted", reason="OOMKilled"),
    "SIGKILL counts as a crash": End(137, "Crashed", "counted"),
    "preemption does not count": End(137, "Preempted", "uncounted", disruption="PreemptionByScheduler"),
    "eviction does not count": End(137, "Evicted", "uncounted", disruption="EvictionByEvictionAPI"),
    "a lost node does not count": End(137, "NodeLost", "uncounted", disruption="DeletionByTaintManager"),
    "success without a record is not believed": End(0, "RecordMissing", "uncounted"),
}


@pytest.mark.parametrize("sentence", ENDS)
def test_the_end_of_a_training_pod(kubelet: FakeKubelet, sentence: str) -> None:
    end = ENDS[sentence]
    name = f"end-{list(ENDS).index(sentence)}"
    kubelet.apply(name)
    kubelet.prepare(name, prepared_record())

    kubelet.end(kubelet.run(name, f"{name}-r1-a1"), end.code, end.record, reason=end.reason, disruption=end.disruption)
    job = kubelet.wait(name, "recorded", lambda job: _training_ends(job))

    [entry] = _training_ends(job)
    assert entry["reason"] == end.want_reason, kubelet.explain(name)
    assert (condition(job, "Succeeded")["status"] == "False") == (end.want == "final"), kubelet.explain(name)
    assert job["status"].get("failures", 0) == (end.want != "uncounted")
    assert bool(job["status"].get("nextAttemptTime")) == (end.want == "counted")
    if end.record is not None and end.want == "final":
        assert end.record.message in condition(job, "Succeeded")["message"]
    kubelet.delete(name)


def test_bad_data_ends_the_job_before_any_gpu_is_asked_for(kubelet: FakeKubelet) -> None:
    kubelet.apply("bad-data")
    record = failed_record(3, "InvalidData", "s3://data/faq.jsonl line 3, field output: not text", role="prepare")
    kubelet.end(kubelet.run("bad-data", "bad-data-r1-p1"), 3, record)
    job = kubelet.wait_finished("bad-data", "False")
    assert condition(job, "Succeeded")["reason"] == "InvalidData"
    assert condition(job, "Prepared")["status"] == "False"
    assert "line 3, field output" in condition(job, "Succeeded")["message"]
    assert not job["status"].get("attempt")


WAITS = {
    "an image that cannot be pulled": ("ImagePullBackOff", "ImagePullFailed"),
    "a secret that is not there": ("CreateContainerConfigError", "PodNotStarting"),
}


@pytest.mark.parametrize("sentence", WAITS)
def test_a_pod_that_does_not_start_is_explained(kubelet: FakeKubelet, sentence: str) -> None:
    waiting, want_reason = WAITS[sentence]
    name = f"wait-{list(WAITS).index(sentence)}"
    kubelet.apply(name)
    [pod] = kubelet.pods(name, f"{name}-r1-p1")
    container = pod["spec"]["containers"][0]
    state = {"waiting": {"reason": waiting, "message": "the kubelet's own words"}}
    status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "ready": False}
    kubelet.set_status(
        pod,
        conditions=[{"type": "PodScheduled", "status": "True"}],
        containerStatuses=[{**status, "state": state}],
    )
    job = kubelet.wait_reason(name, want_reason)
    assert condition(job, "Succeeded")["status"] == "Unknown"
    assert "the kubelet's own words" in condition(job, "Succeeded")["message"]
    kubelet.delete(name)


def test_a_pod_that_finds_no_node_is_explained(kubelet: FakeKubelet) -> None:
    kubelet.apply("nowhere")
    job = kubelet.wait_reason("nowhere", "Unschedulable")
    assert "nodes are available" in condition(job, "Succeeded")["message"]
    kubelet.delete("nowhere")


def _training_ends(job: dict[str, object]) -> list[dict[str, object]]:
    history = job["status"].get("history", [])  # type: ignore[attr-defined]
    return [entry for entry in history if entry["role"] == "train"]
