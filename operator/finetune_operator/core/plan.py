"""What `decide` answers: actions, the status to be written, events, and when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal


class Trust(IntEnum):
    """How much of a snapshot was read from the server just now, and how much of it a decision needs to be so."""

    CACHE = 0
    """Presence of an end, guarded by the resourceVersion of the status write."""
    LIVE_JOB = 1
    """The FineTuneJob: before anything is created or deleted."""
    LIVE_CHILDREN = 2
    """Its Jobs and pods as well: before a conclusion is drawn from their absence."""


@dataclass(frozen=True)
class Create:
    """POST a child; one of the same name that is already there is adopted or is an obstacle."""

    body: Mapping[str, Any]


@dataclass(frozen=True)
class DeleteJob:
    """Delete a child Job with its pods, by name and uid."""

    name: str
    uid: str


Action = Create | DeleteJob


@dataclass(frozen=True)
class Event:
    """For `kubectl describe`: posted on transitions only, after the status write that it reports."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Actions first, in order; then one status write when `status` differs from the stored one; then events."""

    status: Mapping[str, Any]
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds; None: the next watch event is soon enough."""
    explain: str | None = None
    """Name of a pod or Job whose newest warning event is wanted in the snapshot before this decision counts."""
    needs: Trust = Trust.CACHE
    """The snapshot has to be at least this fresh, or the decision has to be taken again on a fresher one."""
