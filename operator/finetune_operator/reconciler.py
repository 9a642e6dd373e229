"""One object, one step: observe → decide → act → one status write → events → when to look again.

The same for every kind; what is observed and decided is its planner's. Keeps no state between two calls: a new process
with empty memory resumes where this one was killed.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from finetune_operator.core.plan import Plan
from finetune_operator.ports import Conflict, EventSink, Json, Key, KubeApi, NotFound, Observed, Resource

_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """Of one reconcile."""

    requeue_after: float | None = None
    """Seconds until the next look without an event; 0 is at once; None: not needed."""


class Planner(Protocol):
    """The part of one kind: builds its snapshot, runs its chain, and carries out the actions of the plan."""

    async def plan(self, key: Key, raw: Json) -> tuple[Json, Plan]:
        """`raw` is the object as it is cached. Returns the object that the plan was made for, and the plan: its
        actions are done, its status and events are left to the reconciler. Raises what `KubeApi` raises."""
        ...


class Reconciler:
    """Raises what `KubeApi` raises, `Retryable` above all: the queue backs off and tries again."""

    def __init__(
        self, resource: Resource, planner: Planner, api: KubeApi, observed: Observed, events: EventSink
    ) -> None:
        self._resource = resource
        self._planner = planner
        self._api = api
        self._observed = observed
        self._events = events

    async def reconcile(self, key: Key) -> Outcome:
        raw = self._observed.find(key)
        if raw is None:
            return Outcome()
        try:
            planned_for, plan = await self._planner.plan(key, raw)
            await self._write_status(planned_for, plan)
            return Outcome(plan.requeue_after)
        except NotFound:
            return Outcome()  # Deleted meanwhile, and its children with it.
        except Conflict:
            # Decided on an older state than the server's. Its event may be lost: without a look of our own, every retry
            # until the next resync would be refused in the same way.
            await self._refresh(key)
            return Outcome(_LOOK_AGAIN_SECONDS)

    async def _refresh(self, key: Key) -> None:
        with suppress(NotFound):
            self._observed.note(self._resource, await self._api.get(self._resource, key.namespace or None, key.name))

    async def _write_status(self, raw: Json, plan: Plan) -> None:
        if plan.status == (raw.get("status") or {}):
            return
        stored = await self._api.replace_status(self._resource, {**raw, "status": dict(plan.status)})
        self._observed.note(self._resource, stored)
        for event in plan.events:
            await self._events.post(stored, event)
