"""Transitions, reported as Events for `kubectl describe` and as one log line each.

Best effort: a bounded queue between the reconcile and the API server, a budget for each object, and repetitions counted
on the Event that is there. Nothing here can fail or delay a reconcile.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar

from finetune_operator.core.conditions import truncated
from finetune_operator.ports import EVENTS, ApiError, Clock, Event, Json, KubeApi, NotFound

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

COMPONENT = "finetune-operator"
MAX_MESSAGE = 1024
_QUEUE = 1_000
_REMEMBERED = 2_000
_BURST = 25
_SECONDS_FOR_ONE = 300.0
"""client-go's budget for one object: 25 Events at once, then one in five minutes."""
_SAME_WITHIN_SECONDS = 600.0


class _Identity(NamedTuple):
    uid: str
    type: str
    reason: str
    message: str


class KubeEvents:
    """`ports.EventSink`; `run` sends what `post` accepted.

    Args:
        instance: name of this replica, shown in the Event.
    """

    def __init__(self, api: KubeApi, clock: Clock, *, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._instance = instance
        self._queue: asyncio.Queue[tuple[Json, Event]] = asyncio.Queue(_QUEUE)
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._sent: OrderedDict[_Identity, tuple[Json, float]] = OrderedDict()

    async def post(self, involved: Json, event: Event) -> None:
        metadata, status = involved["metadata"], involved.get("status") or {}
        where = {"namespace": metadata["namespace"], "job": metadata["name"]}
        number = {"run": status.get("run", 0), "attempt": status.get("attempt", 0)}
        logger.info(
            "%s/%s run %s attempt %s: %s: %s",
            *where.values(),
            *number.values(),
            event.reason,
            event.message,
            extra={"fields": {**where, **number, "reason": event.reason}},
        )
        try:
            self._queue.put_nowait((involved, event))
        except asyncio.QueueFull:
            logger.debug("too many events, dropped one about %s", metadata["name"])

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            involved, event = await self._queue.get()
            try:
                await self._send(involved, event)
            except ApiError as error:
                logger.debug("event dropped: %s", error)

    async def _send(self, involved: Json, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        identity = _Identity(involved["metadata"]["uid"], event.type, event.reason, event.message)
        previous, sent_at = self._sent.get(identity, (None, 0.0))
        if not self._has_budget(identity.uid, now):
            logger.debug("events about %s exceed its budget", involved["metadata"]["name"])
            return
        if previous is not None and now - sent_at < _SAME_WITHIN_SECONDS:
            stored = await self._count(previous)
        else:
            stored = None
        if stored is None:
            stored = await self._api.create(
                EVENTS, involved["metadata"]["namespace"], render(involved, event, self._clock.now(), self._instance)
            )
        _remember(self._sent, identity, (stored, now))

    async def _count(self, previous: Json) -> Json | None:
        """The same Event with its count raised; None when it has expired."""
        again = {
            **previous,
            "count": int(previous.get("count") or 1) + 1,
            "lastTimestamp": _timestamp(self._clock.now()),
        }
        again["metadata"] = {name: value for name, value in previous["metadata"].items() if name != "resourceVersion"}
        try:
            return await self._api.replace(EVENTS, again)
        except NotFound:
            return None

    def _has_budget(self, uid: str, now: float) -> bool:
        budget = self._budgets.get(uid) or _Budget(tokens=_BURST, at=now)
        budget, is_granted = budget.take(now)
        _remember(self._budgets, uid, budget)
        return is_granted


@dataclass(frozen=True)
class _Budget:
    """A token bucket."""

    tokens: float
    at: float

    def take(self, now: float) -> tuple["_Budget", bool]:
        tokens = min(_BURST, self.tokens + (now - self.at) / _SECONDS_FOR_ONE)
        is_granted = tokens >= 1
        return _Budget(tokens - is_granted, now), is_granted


def render(involved: Json, event: Event, now: datetime, instance: str) -> Json:
    """A core/v1 Event: the form that every version of kubectl describes."""
    metadata, time = involved["metadata"], _timestamp(now)
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": involved["apiVersion"],
            "kind": involved["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": truncated(event.message, MAX_MESSAGE),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": instance,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def _timestamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
