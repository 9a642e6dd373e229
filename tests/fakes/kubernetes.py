"""An API server in memory: `FakeCluster` holds the objects, `FakeKubeApi` is one client's connection to it.

Kept as the real one keeps it (tests/contract/test_kube_api.py runs the same table against both): resourceVersion,
generation, uid, the status subresource, conflicts, delete preconditions, graceful deletion of pods. The cluster keeps
every change, so that a promise can be checked over the whole history. What is read is not copied: whoever changes it in
place breaks the history, so nobody does. Faults belong to a connection: the simulated components and people work on
the cluster directly and are never disturbed.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

from finetune_operator.core.timestamps import format_time
from finetune_operator.kinds import KINDS, watched_by
from finetune_operator.ports import (
    FINETUNEJOBS,
    GPUCLASSES,
    JOBS,
    NODES,
    PODS,
    AlreadyExists,
    Clock,
    Conflict,
    Json,
    Listing,
    NotFound,
    Propagation,
    Resource,
)
from tests.fakes.schema import schema_of, unknown_fields, with_defaults

_WITH_STATUS = {FINETUNEJOBS, GPUCLASSES, JOBS, PODS, NODES}
_WITH_GENERATION = {FINETUNEJOBS, GPUCLASSES, JOBS}
_OURS = {FINETUNEJOBS, GPUCLASSES}

Verb = Literal["create", "replace", "replace_status", "delete"]
Ref = tuple[Resource, str, str]
"""Resource, namespace ('' for cluster-scoped), name."""


@dataclass(frozen=True)
class Change:
    """One step of the cluster's history; `obj` is the object after it (before it, when it was deleted)."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource
    obj: Json

    @property
    def ref(self) -> Ref:
        metadata = self.obj["metadata"]
        return self.resource, metadata.get("namespace") or "", metadata["name"]


Watcher = Callable[[int], None]
"""Called with the position in the history of each change, as soon as it is made."""


class FakeCluster:
    """What etcd and the API server know. Methods are synchronous and never fail by fault."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[Ref, Json] = {}
        self._version = 0
        self._uids = 0
        self.history: list[Change] = []
        self.watchers: list[Watcher] = []

    # --- reads -----------------------------------------------------------------------------------------------
    @property
    def version(self) -> str:
        return str(self._version)

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        found = self.find(resource, namespace, name)
        if found is None:
            raise NotFound(f'{resource.plural} "{name}" not found')
        return found

    def find(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        return self._objects.get((resource, namespace or "", name))

    def items(self, resource: Resource, namespace: str | None = None) -> Iterator[Json]:
        return _selected(self._objects, resource, namespace)

    def items_at(self, position: int, resource: Resource, namespace: str | None = None) -> Iterator[Json]:
        """As they were after so many changes."""
        objects: dict[Ref, Json] = {}
        for change in self.history[:position]:
            if change.type == "DELETED":
                objects.pop(change.ref, None)
            else:
                objects[change.ref] = change.obj
        return _selected(objects, resource, namespace)

    # --- writes ----------------------------------------------------------------------------------------------
    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        obj = _copied(body)
        ref = (resource, namespace or "", obj["metadata"]["name"])
        if ref in self._objects:
            raise AlreadyExists(f'{resource.plural} "{ref[2]}" already exists')
        self._uids += 1
        obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
        obj["metadata"] |= {"uid": f"uid-{self._uids:04d}", "creationTimestamp": format_time(self._clock.now())}
        if resource.is_namespaced:
            obj["metadata"]["namespace"] = namespace
        if resource in _WITH_GENERATION:
            obj["metadata"]["generation"] = 1
        if resource in _WITH_STATUS and resource != NODES:
            obj.pop("status", None)
        return self._store("ADDED", ref, self._defaulted(resource, obj))

    def replace(self, resource: Resource, body: Json) -> Json:
        """Of everything but the status."""
        ref, stored = self._for_update(resource, body)
        obj = _copied(body)
        _carry_over(obj, stored, "uid", "creationTimestamp", "generation")
        obj.pop("status", None)
        if resource in _WITH_STATUS and "status" in stored:
            obj["status"] = stored["status"]
        obj = self._defaulted(resource, obj)
        if resource in _WITH_GENERATION and obj.get("spec") != stored.get("spec"):
            obj["metadata"]["generation"] = stored["metadata"]["generation"] + 1
        return self._changed(ref, stored, obj)

    def replace_status(self, resource: Resource, body: Json) -> Json:
        """Of nothing but the status."""
        ref, stored = self._for_update(resource, body)
        obj = _copied(stored)
        obj["status"] = _copied(body.get("status") or {})
        if resource in _OURS:
            pruned = list(unknown_fields(schema_of(resource.plural)["properties"]["status"], obj["status"], "status"))
            assert not pruned, f"the API server would prune {pruned}"
        return self._changed(ref, stored, obj)

    def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None) -> None:
        ref = (resource, namespace or "", name)
        stored = self.get(resource, namespace, name)
        if uid is not None and stored["metadata"]["uid"] != uid:
            raise Conflict(f"the UID in the precondition ({uid}) does not match ({stored['metadata']['uid']})")
        if resource == PODS and (stored.get("spec") or {}).get("nodeName"):
            self._mark_deleted(ref, stored)  # The kubelet takes it from here.
        else:
            self.remove(ref)

    def remove(self, ref: Ref) -> None:
        """At once, as a delete without a grace period does."""
        stored = self._objects.pop(ref)
        self._version += 1
        gone = _copied(stored)
        gone["metadata"]["resourceVersion"] = self.version
        self._record(Change("DELETED", ref[0], gone))

    def edit(self, resource: Resource, namespace: str | None, name: str, change: Callable[[Json], None]) -> Json:
        """A person's or a component's read-modify-write of anything, status included."""
        obj = _copied(self.get(resource, namespace, name))
        change(obj)
        stored = self._objects[(resource, namespace or "", name)]
        obj = self._defaulted(resource, obj)
        if resource in _WITH_GENERATION and obj.get("spec") != stored.get("spec"):
            obj["metadata"]["generation"] += 1
        return self._changed((resource, namespace or "", name), stored, obj)

    # --- details ---------------------------------------------------------------------------------------------
    def _for_update(self, resource: Resource, body: Json) -> tuple[Ref, Json]:
        metadata = body["metadata"]
        ref = (resource, metadata.get("namespace") or "", metadata["name"])
        stored = self._objects.get(ref)
        if stored is None:
            raise NotFound(f'{resource.plural} "{ref[2]}" not found')
        if metadata.get("uid", stored["metadata"]["uid"]) != stored["metadata"]["uid"]:
            raise Conflict("the uid in the precondition does not match")
        if metadata["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            raise Conflict(f'{resource.plural} "{ref[2]}": the object has been modified')
        return ref, stored

    def _mark_deleted(self, ref: Ref, stored: Json) -> None:
        if "deletionTimestamp" not in stored["metadata"]:
            obj = _copied(stored)
            obj["metadata"]["deletionTimestamp"] = format_time(self._clock.now())
            self._store("MODIFIED", ref, obj)

    def _changed(self, ref: Ref, stored: Json, obj: Json) -> Json:
        """A write that changes nothing makes no new version."""
        return stored if obj == stored else self._store("MODIFIED", ref, obj)

    def _store(self, type_: Literal["ADDED", "MODIFIED"], ref: Ref, obj: Json) -> Json:
        self._version += 1
        obj["metadata"]["resourceVersion"] = self.version
        self._objects[ref] = obj
        self._record(Change(type_, ref[0], obj))
        return obj

    def _record(self, change: Change) -> None:
        self.history.append(change)
        for watcher in list(self.watchers):
            watcher(len(self.history) - 1)

    @staticmethod
    def _defaulted(resource: Resource, obj: Json) -> Json:
        return dict(with_defaults(schema_of(resource.plural), obj)) if resource in _OURS else obj


def _selected(objects: Mapping[Ref, Json], resource: Resource, namespace: str | None) -> Iterator[Json]:
    for (kind, space, _), obj in sorted(objects.items(), key=lambda item: item[0][1:]):
        if kind == resource and (namespace is None or space == namespace):
            yield obj


def _copied(value: Any) -> Any:
    """Of JSON: several times faster than deepcopy, and thousands of plays are made of it."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _carry_over(obj: Json, stored: Json, *names: str) -> None:
    for name in names:
        if name in stored["metadata"]:
            obj["metadata"][name] = stored["metadata"][name]


# --- a connection --------------------------------------------------------------------------------------------
class Crash(BaseException):
    """The operator's process ends here. Not an Exception: nothing in the code under test may catch it."""


@dataclass(frozen=True)
class Write:
    """One write of a client, in the order of its arrival."""

    verb: Verb
    resource: Resource
    name: str
    at: float
    """Time of the event loop, in seconds."""


Delivery = Callable[[int], Sequence[float]]
"""By position in the history: after how many seconds its watch event arrives. Empty for a lost one, two numbers for one
that arrives twice; different delays change the order."""


def on_time(position: int) -> Sequence[float]:
    return (0.0,)


@dataclass
class Faults:
    """What goes wrong on a connection. Writes are counted from 0."""

    crash_before: int | None = None
    crash_after: int | None = None
    error_before: Mapping[int, Exception] = field(default_factory=dict)
    """The write does not happen, and the error is raised."""
    error_after: Mapping[int, Exception] = field(default_factory=dict)
    """The write is committed, and the error is raised."""
    answer: Callable[[str, Resource], Exception | None] = lambda verb, resource: None
    """Instead of any request, reads included: None lets it through."""
    delivery: Delivery = on_time
    """Of watch events."""
    behind: int = 0
    """The first list of each resource, and the watch that follows it, are so many changes old."""
    blind_seconds: float = 0.0
    """For so long after its start the watch delivers nothing, and then all that was missed."""


class FakeKubeApi:
    """`ports.KubeApi` on a FakeCluster, and its watch. Each call lets other tasks run first, so that reconcilers
    interleave.

    Args:
        pauses: how often each call lets others run; once when left out.
        latency: seconds until each call reaches the server; none when left out.
    """

    def __init__(
        self,
        cluster: FakeCluster,
        faults: Faults | None = None,
        pauses: Iterator[int] | None = None,
        latency: Iterator[float] | None = None,
    ) -> None:
        self.cluster = cluster
        self.faults = faults or Faults()
        self.writes: list[Write] = []
        self.refused = 0
        """Writes that changed nothing, because they were decided on an older state than the server's."""
        self._pauses = pauses or repeat(1)
        self._latency = latency
        self._is_dead = False
        self._first_position = max(0, len(cluster.history) - self.faults.behind)
        self._to_be_listed = set(watched_by(KINDS)) if self.faults.behind else set()

    def watch(self, observe: Callable[[Resource, str | None, Json], None]) -> "Watch":
        watch = Watch(self.cluster, observe, self._first_position, self.faults.delivery)
        watch.start(self.faults.blind_seconds)
        return watch

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        await self._reach("get", resource)
        return self.cluster.get(resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Listing:
        await self._reach("list", resource)
        found, version = self.cluster.items(resource, namespace), self.cluster.version
        if resource in self._to_be_listed:
            self._to_be_listed.remove(resource)
            found, version = self._old_list(resource, namespace)
        items = [obj for obj in found if _has_labels(obj, labels or {}) and _has_fields(obj, fields or {})]
        return Listing(items, version)

    async def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        name = body["metadata"]["name"]
        return await self._write("create", resource, name, lambda: self.cluster.create(resource, namespace, body))

    async def replace(self, resource: Resource, body: Json) -> Json:
        name = body["metadata"]["name"]
        return await self._write("replace", resource, name, lambda: self.cluster.replace(resource, body))

    async def replace_status(self, resource: Resource, body: Json) -> Json:
        name = body["metadata"]["name"]
        return await self._write("replace_status", resource, name, lambda: self.cluster.replace_status(resource, body))

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        propagation: Propagation = "Background",
    ) -> None:
        await self._write("delete", resource, name, lambda: self.cluster.delete(resource, namespace, name, uid=uid))

    # --- details ---------------------------------------------------------------------------------------------
    def _old_list(self, resource: Resource, namespace: str | None) -> tuple[Iterable[Json], str]:
        position = self._first_position
        version = self.cluster.history[position - 1].obj["metadata"]["resourceVersion"] if position else "0"
        return self.cluster.items_at(position, resource, namespace), version

    async def _reach(self, verb: str, resource: Resource) -> None:
        for _ in range(next(self._pauses)):
            await asyncio.sleep(0)
        if self._latency is not None:
            await asyncio.sleep(next(self._latency))
        if self._is_dead:
            raise Crash
        error = self.faults.answer(verb, resource)
        if error is not None:
            raise error

    async def _write(self, verb: Verb, resource: Resource, name: str, commit: Callable[[], Any]) -> Any:
        await self._reach(verb, resource)
        index = len(self.writes)
        self.writes.append(Write(verb, resource, name, asyncio.get_running_loop().time()))
        if index == self.faults.crash_before:
            self._die()
        if index in self.faults.error_before:
            raise self.faults.error_before[index]
        try:
            result = commit()
        except (Conflict, NotFound):
            self.refused += 1
            raise
        if index == self.faults.crash_after:
            self._die()
        if index in self.faults.error_after:
            raise self.faults.error_after[index]
        return result

    def _die(self) -> None:
        self._is_dead = True  # nothing else of this process reaches the server
        raise Crash


class Watch:
    """Hands a cluster's changes to `observe`: what is there at `position` first, as a list does, then each change."""

    def __init__(
        self,
        cluster: FakeCluster,
        observe: Callable[[Resource, str | None, Json], None],
        position: int,
        delivery: Delivery = on_time,
    ) -> None:
        self._cluster = cluster
        self._observe = observe
        self._position = position
        self._delivery = delivery
        self._is_cut = False
        self._is_stopped = False
        self._missed: list[int] = []
        self._loop = asyncio.get_running_loop()

    def start(self, blind_seconds: float = 0.0) -> None:
        for resource, labels in watched_by(KINDS).items():
            for obj in self._cluster.items_at(self._position, resource):
                if _has_labels(obj, labels or {}):
                    self._observe(resource, None, obj)
        if blind_seconds:
            self.cut()
            self._loop.call_later(blind_seconds, self.resume)
        for position in range(self._position, len(self._cluster.history)):
            self._plan(position)
        self._cluster.watchers.append(self._plan)

    def stop(self) -> None:
        self._is_stopped = True
        self._cluster.watchers.remove(self._plan)

    def cut(self) -> None:
        """Nothing arrives until `resume`."""
        self._is_cut = True

    def resume(self) -> None:
        """The connection is back: what was missed arrives, in order."""
        self._is_cut = False
        missed, self._missed = self._missed, []
        for position in missed:
            self._plan(position)

    def _plan(self, position: int) -> None:
        if self._is_cut:
            self._missed.append(position)
            return
        for delay in self._delivery(position):
            if delay:
                self._loop.call_later(delay, self._deliver, position)
            else:
                self._loop.call_soon(self._deliver, position)

    def _deliver(self, position: int) -> None:
        change = self._cluster.history[position]
        if self._is_stopped or change.resource not in watched_by(KINDS):
            return
        if _has_labels(change.obj, watched_by(KINDS)[change.resource] or {}):
            self._observe(change.resource, change.type, change.obj)


def _has_labels(obj: Json, wanted: Mapping[str, str]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _has_fields(obj: Json, wanted: Mapping[str, str]) -> bool:
    return all(_at(obj, path) == value for path, value in wanted.items())


def _at(obj: Json, path: str) -> Any:
    value: Any = obj
    for part in path.split("."):
        value = (value or {}).get(part)
    return value
