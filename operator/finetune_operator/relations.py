"""Which objects a change of another object concerns: the keys that have to be looked at besides its own."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from finetune_operator.core.conditions import ConditionType
from finetune_operator.core.stages import STAGES
from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, JOBS, NODES, PODS, Change, Json, Key, job_key_of

Related = Callable[[Change], Iterable[Key]]
"""Called with every change, in order; may keep an index of what it has seen."""

G = TypeVar("G", bound=Hashable)
M = TypeVar("M", bound=Hashable)


def concerned_classes(change: Change) -> Iterable[Key]:
    """The GPUClasses whose counts a node changes."""
    return [GPUCLASSES.key(None, name) for name in change.gpu_classes] if change.resource == NODES else ()


class ConcernedJobs:
    """The FineTuneJobs that a child works for, that wait for nodes of a class, or whose pods end with their node."""

    def __init__(self) -> None:
        self._waiting: _Groups[str, Key] = _Groups()  # by GPU class
        self._ending: _Groups[str, tuple[Key, Key]] = _Groups()  # (job, pod) by node: pods that are being deleted

    def __call__(self, change: Change) -> Iterable[Key]:
        if change.resource == FINETUNEJOBS:
            self._waiting.put(change.key, None if change.after is None else _wanted_class(change.after))
            return ()
        if change.resource in (JOBS, PODS):
            if change.resource == PODS:
                self._follow_pod(change)
            return _owners(change)
        if change.resource == GPUCLASSES and (change.before is None or change.after is None):
            return list(self._waiting)  # a job that names a missing class lists those that exist
        keys = {key for name in change.gpu_classes for key in self._waiting.members(name)}
        if change.resource == NODES and _is_ready(change.before) != _is_ready(change.after):
            # A pod that is being deleted counts as gone once its node is (Snapshot.is_alive).
            keys |= {job for job, _ in self._ending.members(change.key.name)}
        return keys

    def _follow_pod(self, change: Change) -> None:
        owner = job_key_of(change.obj)
        if owner is not None:
            self._ending.put((owner, change.key), None if change.after is None else _node_of_ending(change.after))


class _Groups(Generic[G, M]):
    """Members in groups, each in one at most."""

    def __init__(self) -> None:
        self._members: defaultdict[G, set[M]] = defaultdict(set)
        self._group_of: dict[M, G] = {}

    def put(self, member: M, group: G | None) -> None:
        """In this group and in no other; in none with None."""
        previous = self._group_of.pop(member, None)
        if previous is not None:
            self._members[previous].discard(member)
            if not self._members[previous]:
                del self._members[previous]
        if group is not None:
            self._group_of[member] = group
            self._members[group].add(member)

    def __iter__(self) -> Iterator[M]:
        return iter(self._group_of)

    def members(self, group: G) -> Iterable[M]:
        return self._members.get(group, ())


_WITHOUT_NEED = {stage.active.phase for stage in STAGES if stage.shape.needs_class} | {"Suspended"}
"""Phases in which a job has its nodes, or wants none."""


# --- of a FineTuneJob ------------------------------------------------------------------------------------------
def is_finished(job: Json) -> bool:
    """It has its verdict, and nothing in its spec has changed since."""
    status = job.get("status") or {}
    is_observed = status.get("observedGeneration") == job["metadata"].get("generation")
    return is_observed and _condition(job, ConditionType.SUCCEEDED).get("status") in {"True", "False"}


def is_waiting_for_nodes(job: Json) -> bool:
    return not is_finished(job) and (job.get("status") or {}).get("phase") not in _WITHOUT_NEED


def _wanted_class(job: Json) -> str | None:
    """The GPU class whose nodes the job waits for; None when it waits for none."""
    resources = (job.get("spec") or {}).get("resources") or {}
    return resources.get("gpuClass") if is_waiting_for_nodes(job) else None


def _condition(job: Json, type_: str) -> Json:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == type_), {})


# --- of its children and their nodes ---------------------------------------------------------------------------
def _owners(change: Change) -> list[Key]:
    """Before and after: a label may have been moved to another job."""
    keys = [job_key_of(obj) for obj in (change.before, change.after) if obj is not None]
    return [key for key in dict.fromkeys(keys) if key is not None]


def _node_of_ending(pod: Json) -> str | None:
    """The node of a pod that is being deleted."""
    is_ending = bool(pod["metadata"].get("deletionTimestamp"))
    return ((pod.get("spec") or {}).get("nodeName") or None) if is_ending else None


def _is_ready(node: Json | None) -> bool:
    conditions = ((node or {}).get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition.get("status") == "True" for condition in conditions)
