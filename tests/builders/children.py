"""Child Jobs and pods as the API server shows them."""

from __future__ import annotations

from typing import Any

from finetune_contract import names
from finetune_contract.termination import TerminationRecord
from finetune_operator.core.objects import CONTAINER, LABEL_JOB_UID
from finetune_operator.core.stages import PREPARE, TRAIN, Stage
from tests.builders.jobs import NAMESPACE, Json

HASH = "hash-of-run"
JOB_UID = "uid-of-job"
CREATED = "2026-01-01T00:00:00Z"


def _labels(job: str, stage: Stage, run: int, attempt: int, uid: str) -> dict[str, str]:
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_JOB_NAME: job,
        LABEL_JOB_UID: uid,
        names.LABEL_RUN: str(run),
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_ROLE: stage.role,
    }


def _container() -> Json:
    limits = {"memory": "4Gi"}
    return {"name": CONTAINER, "image": "registry/finetune-trainer:1", "resources": {"limits": limits}}


class ChildBuilder:
    """A Job of the attempt."""

    def __init__(self, stage: Stage, attempt: int, run: int) -> None:
        self.name = stage.child_name("faq", run, attempt)
        owner = {"kind": "FineTuneJob", "name": "faq", "uid": JOB_UID, "controller": True}
        self._job: Json = {
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "uid": f"uid-of-{self.name}",
                "creationTimestamp": CREATED,
                "labels": _labels("faq", stage, run, attempt, JOB_UID),
                "annotations": {names.ANNOTATION_CONFIG_HASH: HASH},
                "ownerReferences": [owner],
            },
            "spec": {"completions": 1, "template": {"spec": {"containers": [_container()]}}},
            "status": {},
        }

    def build(self) -> Json:
        return self._job

    def of_image(self, image: str) -> ChildBuilder:
        self._job["spec"]["template"]["spec"]["containers"][0]["image"] = image
        return self

    def owned_by(self, uid: str | None) -> ChildBuilder:
        owners = self._job["metadata"]["ownerReferences"]
        owners.clear() if uid is None else owners[0].update(uid=uid)
        return self

    def hashed(self, config_hash: str) -> ChildBuilder:
        self._job["metadata"]["annotations"][names.ANNOTATION_CONFIG_HASH] = config_hash
        return self

    def with_uid(self, uid: str) -> ChildBuilder:
        self._job["metadata"]["uid"] = uid
        return self

    def being_deleted(self) -> ChildBuilder:
        self._job["metadata"]["deletionTimestamp"] = CREATED
        return self

    def complete(self) -> ChildBuilder:
        return self._with("Complete", "CompletionsReached", "")

    def failed(self, message: str = "", reason: str = "PodFailurePolicy") -> ChildBuilder:
        return self._with("FailureTarget", reason, message)

    def _with(self, type_: str, reason: str, message: str) -> ChildBuilder:
        condition = {"type": type_, "status": "True", "reason": reason, "message": message}
        self._job["status"].setdefault("conditions", []).append(condition)
        return self


def train_child(attempt: int = 1, run: int = 1) -> ChildBuilder:
    return ChildBuilder(TRAIN, attempt, run)


def prepare_child(attempt: int = 1, run: int = 1) -> ChildBuilder:
    return ChildBuilder(PREPARE, attempt, run)


class PodBuilder:
    def __init__(self, stage: Stage, attempt: int, run: int, index: int) -> None:
        name = f"{stage.child_name('faq', run, attempt)}-{index}-abcde"
        self._pod: Json = {
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid-of-{name}",
                "creationTimestamp": CREATED,
                "labels": _labels("faq", stage, run, attempt, JOB_UID),
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            },
            "spec": {},
            "status": {"phase": "Pending"},
        }

    def build(self) -> Json:
        return self._pod

    def on_node(self, name: str) -> PodBuilder:
        self._pod["spec"]["nodeName"] = name
        return self

    def running(self, node: str = "node-1") -> PodBuilder:
        self._pod["status"]["phase"] = "Running"
        return self.on_node(node)._state({"running": {}})

    def waiting(self, reason: str, message: str = "") -> PodBuilder:
        return self.on_node("node-1")._state({"waiting": {"reason": reason, "message": message}})

    def unschedulable(self, message: str) -> PodBuilder:
        return self._condition("PodScheduled", "False", "Unschedulable", message)

    def ended(self, code: int, reason: str = "Error", message: str = "", finished: str = CREATED) -> PodBuilder:
        self._pod["status"]["phase"] = "Failed" if code else "Succeeded"
        terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": finished}
        return self.on_node("node-1")._state({"terminated": terminated})

    def left(self, record: TerminationRecord, finished: str = CREATED) -> PodBuilder:
        """Ended with the record's own exit code."""
        return self.ended(record.exit_code, "Completed", record.render().decode(), finished)

    def disrupted(self, reason: str, message: str = "") -> PodBuilder:
        return self._condition("DisruptionTarget", "True", reason, message)

    def rejected(self, reason: str, message: str) -> PodBuilder:
        self._pod["status"] |= {"phase": "Failed", "reason": reason, "message": message}
        return self

    def terminating(self) -> PodBuilder:
        self._pod["metadata"]["deletionTimestamp"] = CREATED
        return self

    def of_uid(self, uid: str) -> PodBuilder:
        self._pod["metadata"]["labels"][LABEL_JOB_UID] = uid
        return self

    def _state(self, state: dict[str, Any]) -> PodBuilder:
        self._pod["status"]["containerStatuses"] = [
            {"name": "sidecar", "state": {}},
            {"name": CONTAINER, "state": state},
        ]
        return self

    def _condition(self, type_: str, status: str, reason: str, message: str) -> PodBuilder:
        condition = {"type": type_, "status": status, "reason": reason, "message": message}
        self._pod["status"].setdefault("conditions", []).append(condition)
        return self


def train_pod(index: int = 0, attempt: int = 1, run: int = 1) -> PodBuilder:
    return PodBuilder(TRAIN, attempt, run, index)


def prepare_pod(attempt: int = 1, run: int = 1) -> PodBuilder:
    return PodBuilder(PREPARE, attempt, run, 0)
