"""Condition types and reasons of a FineTuneJob, and how a condition changes.

A meaning, once defined, is frozen: programs read these words. Reasons that a trainer leaves in its termination record
(and the reasons of waiting containers) pass through as they are and are not listed here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from finetune_operator.core.timestamps import format_time

MAX_MESSAGE = 1024
_MAX_COMPOSED = 960
"""An Event has the same limit, and puts the reason in front."""
_LEAST_EVIDENCE = 200


class ConditionType(StrEnum):
    ACCEPTED = "Accepted"
    PLANNED = "Planned"
    PREPARED = "Prepared"
    SUCCEEDED = "Succeeded"
    """The summary; final once True or False."""
    STALLED = "Stalled"
    """Abnormal-true: present only while it is true."""


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    # the way to success
    ACCEPTED = "Accepted"
    PLANNED = "Planned"
    PREPARING = "Preparing"
    PREPARED = "Prepared"
    STARTING = "Starting"
    TRAINING = "Training"
    SUCCEEDED = "Succeeded"
    # stopped by the user
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    REPLACING = "Replacing"
    # waiting for something to change
    GPU_CLASS_NOT_FOUND = "GPUClassNotFound"
    NO_MATCHING_NODES = "NoMatchingNodes"
    TOO_FEW_NODES = "TooFewNodes"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    POD_NOT_STARTING = "PodNotStarting"
    NO_PODS = "NoPods"
    CHILD_REFUSED = "ChildRefused"
    CONFLICT = "Conflict"
    UNREADABLE_SPEC = "UnreadableSpec"
    UNKNOWN_FIELD = "UnknownField"
    BACKING_OFF = "BackingOff"
    WAITING_FOR_PODS = "WaitingForPods"
    WAITING_FOR_STORAGE = "WaitingForStorage"
    # final
    INVALID_SPEC = "InvalidSpec"
    INVALID_RESOURCES = "InvalidResources"
    DOES_NOT_FIT = "DoesNotFit"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    ACCELERATOR_OUT_OF_MEMORY = "AcceleratorOutOfMemory"
    # why there is an attempt: the end of the previous one, or
    FIRST_ATTEMPT = "FirstAttempt"
    # ends of an attempt
    OOM_KILLED = "OOMKilled"
    CRASHED = "Crashed"
    STOPPED = "Stopped"
    STOPPED_WITHOUT_SAVE = "StoppedWithoutSave"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    REJECTED_BY_NODE = "RejectedByNode"
    DISRUPTED = "Disrupted"
    CHILD_LOST = "ChildLost"
    RECORD_MISSING = "RecordMissing"


@dataclass(frozen=True)
class Condition:
    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0
    last_transition_time: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Condition":
        return cls(
            type=raw["type"],
            status=raw["status"],
            reason=raw.get("reason", ""),
            message=raw.get("message", ""),
            observed_generation=raw.get("observedGeneration", 0),
            last_transition_time=raw.get("lastTransitionTime", ""),
        )

    def dump(self) -> dict[str, Any]:
        return {
            "type": str(self.type),
            "status": str(self.status),
            "observedGeneration": self.observed_generation,
            "lastTransitionTime": self.last_transition_time,
            "reason": str(self.reason),
            "message": self.message,
        }


def truncated(text: str, limit: int = MAX_MESSAGE) -> str:
    """The middle is left out: a text begins with what happened and ends with what to do."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def compose(what: str, evidence: str = "", cure: str = "") -> str:
    """What happened, why, and what to do, as one message.

    Args:
        what: ends with a colon when it introduces the evidence.
        evidence: the words of others (scheduler, API server, trainer). Cut to what is left of the limit.
        cure: never cut.
    """
    what = truncated(what, _MAX_COMPOSED - len(cure) - _LEAST_EVIDENCE)
    room = _MAX_COMPOSED - len(what) - len(cure) - 2
    return " ".join(part for part in (what, truncated(as_sentence(evidence), room), cure) if part)


def as_sentence(text: str) -> str:
    """With its full stop: what others say is put between sentences of ours."""
    return text if not text or text[-1] in ".!?…" else f"{text}."


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def with_condition(conditions: tuple[Condition, ...], new: Condition, now: datetime) -> tuple[Condition, ...]:
    """`new` in the place of the one of its type; lastTransitionTime moves only when the status does."""
    old = find(conditions, new.type)
    kept = old is not None and old.status == new.status
    stamped = replace(
        new,
        message=truncated(new.message),
        last_transition_time=old.last_transition_time if old is not None and kept else format_time(now),
    )
    if old is None:
        return (*conditions, stamped)
    return tuple(stamped if condition.type == new.type else condition for condition in conditions)


def without_condition(conditions: tuple[Condition, ...], type_: str) -> tuple[Condition, ...]:
    return tuple(condition for condition in conditions if condition.type != type_)


def in_order(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """As a job goes through them: `kubectl describe` is read from top to bottom."""
    order = list(ConditionType)
    return tuple(sorted(conditions, key=lambda condition: order.index(ConditionType(condition.type))))
