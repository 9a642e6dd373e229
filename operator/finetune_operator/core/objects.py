"""Frozen, typed views of the objects that are looked at. Each parses raw JSON once and says in words what it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from finetune_contract import names
from finetune_contract.termination import TerminationRecord
from finetune_operator.core.quantity import parse_quantity
from finetune_operator.core.spec import Spec
from finetune_operator.core.timestamps import parse_time

LABEL_JOB_UID = f"{names.GROUP}/job-uid"
"""Uid of the FineTuneJob, on every child and its pods: a job deleted and created again must not see foreign pods."""
CONTAINER = "trainer"

Raw = Mapping[str, Any]


# --- the job ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FineTuneJob:
    raw: Raw

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.raw["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.raw["metadata"]["generation"])

    @property
    def is_being_deleted(self) -> bool:
        return bool(self.raw["metadata"].get("deletionTimestamp"))

    @property
    def restarted_at(self) -> str:
        """The user's request for a new run; empty when there was none."""
        annotations = self.raw["metadata"].get("annotations") or {}
        return str(annotations.get(names.ANNOTATION_RESTARTED_AT, ""))

    @property
    def raw_spec(self) -> Raw:
        spec: Raw = self.raw.get("spec") or {}
        return spec

    @property
    def raw_status(self) -> Raw:
        status: Raw = self.raw.get("status") or {}
        return status

    @cached_property
    def spec(self) -> Spec:
        """Raises pydantic's ValidationError: only the policies of `decide.CHAIN` after `check_spec` may look."""
        return Spec.parse(self.raw_spec)

    @property
    def readable_spec(self) -> Spec | None:
        """None when this operator cannot read it."""
        try:
            return self.spec
        except ValidationError:
            return None

    # Two fields that are read whether or not this operator understands the rest.
    @property
    def is_suspended(self) -> bool:
        return bool(self.raw_spec.get("suspend", False))

    @property
    def retries(self) -> int:
        return int(self.raw_spec.get("retries", 0))


# --- its children ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class JobEnd:
    is_complete: bool
    reason: str
    message: str
    """The Job controller's words; carries the exit code when a FailJob rule matched."""


@dataclass(frozen=True)
class ChildJob:
    name: str
    uid: str
    owner_uid: str
    """Of its controller; empty when it has none."""
    run: int
    attempt: int
    role: str
    config_hash: str
    is_being_deleted: bool
    created: datetime | None
    end: JobEnd | None
    pod_count: int
    image: str
    """Of the trainer."""
    memory_limit: str
    """Of each pod. These three are what the child was started with, whatever the spec says by now."""

    @classmethod
    def parse(cls, raw: Raw) -> "ChildJob":
        metadata, spec = raw["metadata"], raw.get("spec") or {}
        container = _trainer_container(spec)
        labels = metadata.get("labels") or {}
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            owner_uid=_controller_uid(metadata),
            run=_number(labels.get(names.LABEL_RUN)),
            attempt=_number(labels.get(names.LABEL_ATTEMPT)),
            role=labels.get(names.LABEL_ROLE, ""),
            config_hash=(metadata.get("annotations") or {}).get(names.ANNOTATION_CONFIG_HASH, ""),
            is_being_deleted=bool(metadata.get("deletionTimestamp")),
            created=parse_time(metadata.get("creationTimestamp")),
            end=_job_end(raw.get("status") or {}),
            pod_count=spec.get("completions", 1),
            image=container.get("image", ""),
            memory_limit=((container.get("resources") or {}).get("limits") or {}).get("memory", ""),
        )

    @property
    def is_finished(self) -> bool:
        return self.end is not None


def _trainer_container(job_spec: Raw) -> Raw:
    pod_spec = (job_spec.get("template") or {}).get("spec") or {}
    containers: Sequence[Raw] = pod_spec.get("containers") or ()
    return next((container for container in containers if container.get("name") == CONTAINER), {})


_COMPLETE = ("SuccessCriteriaMet", "Complete")
_FAILED = ("FailureTarget", "Failed")
"""In the order in which they appear: with a lost node a Job stays at `FailureTarget` and never reaches `Failed`."""


def _job_end(status: Raw) -> JobEnd | None:
    true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    for type_ in (*_FAILED, *_COMPLETE):
        if type_ in true:
            return JobEnd(type_ in _COMPLETE, true[type_].get("reason", ""), true[type_].get("message", ""))
    return None


def _controller_uid(metadata: Raw) -> str:
    owners = metadata.get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


@dataclass(frozen=True)
class Terminated:
    exit_code: int
    reason: str
    message: str
    finished: datetime | None


@dataclass(frozen=True)
class Waiting:
    reason: str
    message: str


@dataclass(frozen=True)
class Pod:
    name: str
    run: int
    attempt: int
    role: str
    index: int
    node_name: str
    phase: str
    reason: str
    """status.reason, set by a kubelet that rejects or evicts the pod."""
    message: str
    is_terminating: bool
    created: datetime | None
    conditions: Mapping[str, Raw]
    terminated: Terminated | None
    waiting: Waiting | None
    is_departed: bool = False
    """Gone from the server; this is the last that was seen of it."""

    @classmethod
    def parse(cls, raw: Raw, is_departed: bool = False) -> "Pod":
        metadata, status = raw["metadata"], raw.get("status") or {}
        labels = metadata.get("labels") or {}
        state = _container_state(status)
        return cls(
            name=metadata["name"],
            run=_number(labels.get(names.LABEL_RUN)),
            attempt=_number(labels.get(names.LABEL_ATTEMPT)),
            role=labels.get(names.LABEL_ROLE, ""),
            index=_number((metadata.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index")),
            node_name=(raw.get("spec") or {}).get("nodeName", ""),
            phase=status.get("phase", "Pending"),
            reason=status.get("reason", ""),
            message=status.get("message", ""),
            is_terminating=bool(metadata.get("deletionTimestamp")),
            created=parse_time(metadata.get("creationTimestamp")),
            conditions={condition["type"]: condition for condition in status.get("conditions") or ()},
            terminated=_terminated(state.get("terminated")),
            waiting=_waiting(state.get("waiting")),
            is_departed=is_departed,
        )

    @property
    def is_finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_running(self) -> bool:
        return self.phase == "Running" and self.terminated is None and not self.is_departed

    @property
    def disruption(self) -> Raw | None:
        """The DisruptionTarget condition, when it is true."""
        condition = self.conditions.get("DisruptionTarget")
        return condition if condition and condition.get("status") == "True" else None

    @property
    def is_unschedulable(self) -> bool:
        """While it waits for a node: a scheduler may still write the condition of a pod that runs by now."""
        scheduled = self.conditions.get("PodScheduled") or {}
        is_refused = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        return is_refused and self.phase == "Pending"

    @property
    def record(self) -> TerminationRecord | None:
        """The supervisor's own account, when it speaks of the code that the container ended with."""
        if self.terminated is None:
            return None
        record = TerminationRecord.parse(self.terminated.message)
        return record if record is not None and record.exit_code == self.terminated.exit_code else None


def _container_state(status: Raw) -> Raw:
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            state: Raw = container.get("state") or {}
            return state
    return {}


def _terminated(raw: Raw | None) -> Terminated | None:
    if raw is None:
        return None
    return Terminated(
        raw.get("exitCode", 0), raw.get("reason", ""), raw.get("message", ""), parse_time(raw.get("finishedAt"))
    )


def _waiting(raw: Raw | None) -> Waiting | None:
    return None if raw is None else Waiting(raw.get("reason", ""), raw.get("message", ""))


# --- the cluster -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Node:
    name: str
    labels: Mapping[str, str]
    is_ready: bool
    allocatable: Mapping[str, str]

    @classmethod
    def parse(cls, raw: Raw) -> "Node":
        status = raw.get("status") or {}
        ready: Raw = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
        return cls(
            name=raw["metadata"]["name"],
            labels=raw["metadata"].get("labels") or {},
            is_ready=ready.get("status") == "True",
            allocatable=status.get("allocatable") or {},
        )

    def devices(self, resource: str) -> int:
        return int(parse_quantity(self.allocatable.get(resource, "0")))


@dataclass(frozen=True)
class GpuClass:
    name: str
    terms: Sequence[Raw]
    """Alternatives, as nodeSelectorTerms; empty: every node."""
    resource_name: str
    """Empty for a class without a device."""
    memory: float | None
    """Bytes of one device."""
    tolerations: Sequence[Raw]

    @classmethod
    def parse(cls, raw: Raw) -> "GpuClass":
        spec = raw.get("spec") or {}
        memory = spec.get("memory")
        return cls(
            name=raw["metadata"]["name"],
            terms=tuple(spec.get("nodeSelectorTerms") or ()),
            resource_name=spec.get("resourceName", ""),
            memory=None if memory is None else parse_quantity(memory),
            tolerations=tuple(spec.get("tolerations") or ()),
        )
