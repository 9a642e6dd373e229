"""From what was observed to which keys have to be handled. Decides nothing about any of them."""

import logging
from collections.abc import Callable

from finetune_operator.cache import Cache, key_of
from finetune_operator.core.conditions import ConditionType
from finetune_operator.metrics import ended_attempts
from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, NODES, Json, Key, Resource
from finetune_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

CLASSES = Key("", "gpuclasses")
"""The one key for the status of all GPUClasses, and for the jobs that wait for one."""
_COALESCE_SECONDS = 0.5
"""A rolling change of a thousand nodes is one look at the classes, not a thousand."""


class Feed:
    """Takes in events and lists, and enqueues whom they concern.

    Args:
        on_attempt_end: told the reason of each attempt that ended.
        on_gone: told the key of each FineTuneJob that was deleted.
    """

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue[Key],
        *,
        on_attempt_end: Callable[[str], None] = lambda reason: None,
        on_gone: Callable[[Key], None] = lambda key: None,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._on_attempt_end = on_attempt_end
        self._on_gone = on_gone
        self._histories: dict[Key, Json] = {}

    def observe(self, resource: Resource, event: str | None, obj: Json) -> None:
        """A watch event."""
        if self._cache.take(resource, event, obj):
            self.announce(resource, obj)

    def announce(self, resource: Resource, obj: Json) -> None:
        """This object is new, changed or gone."""
        if resource in (GPUCLASSES, NODES):
            self._queue.add_after(CLASSES, _COALESCE_SECONDS)
            return
        key = key_of(resource, obj)
        if key is None:
            return
        if resource == FINETUNEJOBS:
            self._follow_history(key)
        self._queue.add(key)

    def wake_waiting(self) -> None:
        """Look again at the jobs that no node was found for."""
        for job in self._cache.jobs():
            if is_waiting_for_nodes(job):
                self._queue.add(Key(job["metadata"]["namespace"], job["metadata"]["name"]))

    def wake_unfinished(self) -> None:
        """Look at every job that is not at its end: whatever event was lost, this makes up for it."""
        for job in self._cache.jobs():
            if not is_finished(job):
                self._queue.add(Key(job["metadata"]["namespace"], job["metadata"]["name"]))

    def _follow_history(self, key: Key) -> None:
        job = self._cache.job(key)
        if job is None:
            self._histories.pop(key, None)
            self._on_gone(key)
            return
        history = {"history": (job.get("status") or {}).get("history")}
        if key in self._histories:  # what happened before this process is not its count
            for reason in ended_attempts(self._histories[key], history):
                self._on_attempt_end(reason)
        self._histories[key] = history


def is_finished(job: Json) -> bool:
    return _condition(job, ConditionType.SUCCEEDED).get("status") in {"True", "False"} and _is_observed(job)


def is_waiting_for_nodes(job: Json) -> bool:
    return not is_finished(job) and (job.get("status") or {}).get("phase") not in {"Training", "Suspended"}


def phase_counts(cache: Cache) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job in cache.jobs():
        phase = str((job.get("status") or {}).get("phase") or "Pending")
        counts[phase] = counts.get(phase, 0) + 1
    return counts


def _is_observed(job: Json) -> bool:
    return bool((job.get("status") or {}).get("observedGeneration") == job["metadata"].get("generation"))


def _condition(job: Json, type_: str) -> Json:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == type_), {})
