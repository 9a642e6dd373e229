"""An API server in memory: `FakeCluster` holds the objects, `FakeKubeApi` is one client's connection to it.

Kept as the real one keeps it (tests/contract/test_kube_api.py runs the same table against both): resourceVersion,
generation, uid, the status subresource, conflicts, delete preconditions, graceful deletion of pods. The cluster keeps
every change, so that a promise can be checked over the whole history. What is read is not copied: whoever changes it in
place breaks the history, so nobody does. Faults belong to a connection: the world and the
persons in it work on the cluster directly and are never disturbed.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

from finetune_operator.core.timestamps import format_time
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


class FakeCluster:
    """What etcd and the API server know. Methods are synchronous and never fail by fault."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[Ref, Json] = {}
        self._version = 0
        self._uids = 0
        self.history: list[Change] = []

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
        stored = self._objects.get((resource, namespace or "", name))
        return stored

    def items(self, resource: Resource, namespace: str | None = None) -> Iterator[Json]:
        for (kind, space, _), obj in sorted(self._objects.items(), key=lambda item: item[0][1:]):
            if kind == resource and (namespace is None or space == namespace):
                yield obj

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
        self.history.append(Change("DELETED", ref[0], gone))

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
        self.history.append(Change(type_, ref[0], obj))
        return obj

    @staticmethod
    def _defaulted(resource: Resource, obj: Json) -> Json:
        return dict(with_defaults(schema_of(resource.plural), obj)) if resource in _OURS else obj


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


@dataclass
class Faults:
    """What goes wrong on a connection. Writes are counted from 0."""

    crash_before: int | None = None
    crash_after: int | None = None
    error_before: Mapping[int, Exception] = field(default_factory=dict)
    """The write does not happen, and the error is raised."""
    error_after: Mapping[int, Exception] = field(default_factory=dict)
    """The write is committed, and the error is raised."""


class FakeKubeApi:
    """`ports.KubeApi` on a FakeCluster. Each call gives way to other tasks first, so that reconcilers interleave."""

    def __init__(self, cluster: FakeCluster, faults: Faults | None = None, pauses: Iterator[int] | None = None) -> None:
        """`pauses`: how often each call gives way; once when left out."""
        self.cluster = cluster
        self.faults = faults or Faults()
        self.writes: list[Write] = []
        self._pauses = pauses or repeat(1)

    async def _give_way(self) -> None:
        for _ in range(next(self._pauses)):
            await asyncio.sleep(0)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        await self._give_way()
        return self.cluster.get(resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Listing:
        await self._give_way()
        items = [
            obj
            for obj in self.cluster.items(resource, namespace)
            if _has_labels(obj, labels or {}) and _has_fields(obj, fields or {})
        ]
        return Listing(items, self.cluster.version)

    async def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        write = Write("create", resource, body["metadata"]["name"])
        return await self._write(write, lambda: self.cluster.create(resource, namespace, body))

    async def replace(self, resource: Resource, body: Json) -> Json:
        write = Write("replace", resource, body["metadata"]["name"])
        return await self._write(write, lambda: self.cluster.replace(resource, body))

    async def replace_status(self, resource: Resource, body: Json) -> Json:
        write = Write("replace_status", resource, body["metadata"]["name"])
        return await self._write(write, lambda: self.cluster.replace_status(resource, body))

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str,
        propagation: Propagation = "Background",
    ) -> None:
        write = Write("delete", resource, name)
        await self._write(write, lambda: self.cluster.delete(resource, namespace, name, uid=uid))

    async def _write(self, write: Write, commit: Callable[[], Any]) -> Any:
        await self._give_way()
        index = len(self.writes)
        self.writes.append(write)
        if index == self.faults.crash_before:
            raise Crash
        if index in self.faults.error_before:
            raise self.faults.error_before[index]
        result = commit()
        if index == self.faults.crash_after:
            raise Crash
        if index in self.faults.error_after:
            raise self.faults.error_after[index]
        return result


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
