"""What is known of the cluster without asking: fed by watch events, repaired by lists.

Never goes back in time: an object is replaced by a newer resourceVersion only, and what was deleted stays deleted. Pods
that are gone are remembered for as long as their Job is there, because a termination record is evidence that nothing
else carries. Decides nothing, and enqueues nothing: it says what changed.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finetune_operator.core.fleet import Fleet
from finetune_operator.fleet import FleetView
from finetune_operator.ports import (
    JOBS,
    NODES,
    PODS,
    Change,
    Json,
    Key,
    KubeApi,
    Resource,
    job_key_of,
)

Watched = Mapping[Resource, Mapping[str, str] | None]
"""Resources with their label selectors, in the order in which they are listed: what an object needs comes before it."""

_DEPARTED_LIMIT = 2_000
_TOMBSTONES = 20_000


class Ref(NamedTuple):
    """Name of an object within its resource; the namespace is empty for cluster-scoped ones."""

    namespace: str
    name: str


class Cache:
    """`ports.Observed`.

    Args:
        watched: what it is fed with (`kinds.watched_by`).
        now: monotonic seconds, for the age of the last sign of life.
    """

    def __init__(self, watched: Watched, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.watched = watched
        self._stores = {resource: _Store(resource) for resource in watched}
        self._of_kind = {resource.kind: store for resource, store in self._stores.items()}
        self._departed: OrderedDict[str, Json] = OrderedDict()  # by uid of the pod
        self._fleet = FleetView()
        self._synced = False
        self._fed_at = now()

    # --- ports.Observed -------------------------------------------------------------------------------------------
    def find(self, key: Key) -> Json | None:
        return self._of_kind[key.kind].get(Ref(key.namespace, key.name))

    def child_jobs(self, key: Key) -> Sequence[Json]:
        return self._stores[JOBS].children(key)

    def child_pods(self, key: Key) -> Sequence[Json]:
        return self._stores[PODS].children(key)

    def departed_pods(self, key: Key) -> Sequence[Json]:
        return [pod for pod in self._departed.values() if job_key_of(pod) == key]

    def fleet(self) -> Fleet:
        return self._fleet.now()

    def note(self, resource: Resource, obj: Json) -> None:
        if resource in self._stores and (resource != JOBS or job_key_of(obj)):
            self._put(resource, obj)

    # --- beyond it ------------------------------------------------------------------------------------------------
    def all(self, resource: Resource) -> Iterator[Json]:
        return iter(self._stores[resource])

    @property
    def is_synced(self) -> bool:
        """True once everything was listed: before that, absence means nothing."""
        return self._synced

    def silent_for(self) -> float:
        """Seconds since the last event or list."""
        return self._now() - self._fed_at

    # --- feeding --------------------------------------------------------------------------------------------------
    def take(self, resource: Resource, event: str | None, obj: Json) -> Change | None:
        """A watch event (`None`: of an initial list). None when it says nothing new.

        The echo of a write of ours counts as new, although `note` took it in already: whoever waits for that write
        needs the event.
        """
        self._fed_at = self._now()
        if event == "DELETED":
            return self._remove(resource, obj)
        return self._put(resource, obj, echoes=True)

    def replace(
        self, resource: Resource, namespace: str | None, items: Iterable[Json], resource_version: str
    ) -> list[Change]:
        """A complete list of one scope: returns what it brought, changed or showed to be gone."""
        self._fed_at = self._now()
        items = list(items)
        listed = {_ref(item) for item in items}
        ghosts = [obj for obj in self._stores[resource] if _is_ghost(obj, namespace, listed, resource_version)]
        changes = [self._put(resource, item) for item in items] + [self._remove(resource, ghost) for ghost in ghosts]
        return [change for change in changes if change is not None]

    def mark_synced(self) -> None:
        self._synced = True

    def _put(self, resource: Resource, obj: Json, *, echoes: bool = False) -> Change | None:
        store, ref = self._stores[resource], _ref(obj)
        before = store.get(ref)
        if not store.put(obj, echoes=echoes):
            return None
        after = store.get(ref)
        return Change(resource, before, after, self._fleet.take(resource, ref.name, after))

    def _remove(self, resource: Resource, obj: Json) -> Change | None:
        if not self._stores[resource].remove(obj):
            return None
        if resource == PODS:
            self._remember(obj)
        elif resource == JOBS:
            self._forget_pods(obj["metadata"]["uid"])
        return Change(resource, obj, None, self._fleet.take(resource, _ref(obj).name, None))

    def _remember(self, pod: Json) -> None:
        owner = _owner_uid(pod)
        if not any(job["metadata"]["uid"] == owner for job in self._jobs_beside(pod)):
            return
        self._departed[pod["metadata"]["uid"]] = pod
        while len(self._departed) > _DEPARTED_LIMIT:
            self._departed.popitem(last=False)

    def _jobs_beside(self, pod: Json) -> Sequence[Json]:
        key = job_key_of(pod)
        return self.child_jobs(key) if key else ()

    def _forget_pods(self, job_uid: str) -> None:
        for uid in [uid for uid, pod in self._departed.items() if _owner_uid(pod) == job_uid]:
            del self._departed[uid]


class _Store:
    """The objects of one resource."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._objects: dict[Ref, Json] = {}
        self._children: dict[Key, dict[Ref, Json]] = {}
        self._gone: OrderedDict[Ref, int] = OrderedDict()  # version at which what had this name was deleted

    def __iter__(self) -> Iterator[Json]:
        return iter(list(self._objects.values()))

    def get(self, ref: Ref) -> Json | None:
        return self._objects.get(ref)

    def children(self, key: Key) -> Sequence[Json]:
        return list(self._children.get(key, {}).values())

    def put(self, obj: Json, *, echoes: bool = False) -> bool:
        """True when it is newer than what is here, or with `echoes` as new."""
        ref = _ref(obj)
        if version_of(obj) <= self._gone.get(ref, -1):
            return False
        known = self._objects.get(ref)
        if known is not None:
            if version_of(obj) == version_of(known):
                return echoes
            if version_of(obj) < version_of(known):
                return False
            self._drop_child(ref, known)
        slim = _slim(self._resource, obj)
        self._objects[ref] = slim
        key = job_key_of(obj)
        if key is not None:
            self._children.setdefault(key, {})[ref] = slim
        # A node reports that it lives every few minutes, which is no news.
        return self._resource != NODES or known is None or _without_version(slim) != _without_version(known)

    def remove(self, obj: Json) -> bool:
        """True when it was here, in this incarnation."""
        ref = _ref(obj)
        self._bury(ref, version_of(obj))
        known = self._objects.get(ref)
        if known is None or known["metadata"]["uid"] != obj["metadata"]["uid"]:
            return False
        del self._objects[ref]
        self._drop_child(ref, known)
        return True

    def _bury(self, ref: Ref, version: int) -> None:
        self._gone[ref] = max(version, self._gone.get(ref, -1))
        self._gone.move_to_end(ref)
        while len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)

    def _drop_child(self, ref: Ref, obj: Json) -> None:
        key = job_key_of(obj)
        if key is not None and key in self._children:
            self._children[key].pop(ref, None)
            if not self._children[key]:
                del self._children[key]


async def resync(cache: Cache, api: KubeApi, namespaces: Sequence[str] = ()) -> list[Change]:
    """List everything and repair the cache; returns what had been missed."""
    missed: list[Change] = []
    for resource, labels in cache.watched.items():
        scopes = namespaces if resource.is_namespaced and namespaces else (None,)
        for namespace in scopes:
            listing = await api.list(resource, namespace, labels=labels)
            missed += cache.replace(resource, namespace, listing.items, listing.resource_version)
    cache.mark_synced()
    return missed


async def resync_forever(
    resync_once: Callable[[], Awaitable[None]],
    *,
    sleep: Callable[[float], Awaitable[None]],
    shortest: float = 300.0,
    longest: float = 600.0,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Again and again, never in step with another replica or operator."""
    while True:
        await sleep(uniform(shortest, longest))
        await resync_once()


def version_of(obj: Json) -> int:
    """Kubernetes declares resourceVersions of one resource comparable (KEP-5504)."""
    text = str(obj["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def _is_ghost(obj: Json, namespace: str | None, listed: set[Ref], resource_version: str) -> bool:
    """Gone from a list that is newer than it. What was created after the list was taken is no ghost."""
    in_scope = namespace is None or obj["metadata"].get("namespace") == namespace
    return in_scope and _ref(obj) not in listed and version_of(obj) <= int(resource_version or 0)


def _ref(obj: Json) -> Ref:
    return Ref(obj["metadata"].get("namespace") or "", obj["metadata"]["name"])


def _owner_uid(obj: Json) -> str | None:
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def _slim(resource: Resource, obj: Json) -> Json:
    """Without what nobody reads: at 10,000 pods that is most of the memory."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    slim: Json = {
        **obj,
        "apiVersion": obj.get("apiVersion") or resource.api_version,
        "kind": obj.get("kind") or resource.kind,
        "metadata": metadata,
    }
    if resource == NODES:
        return _slim_node(slim)
    return slim


def _slim_node(node: Json) -> Json:
    names = ("name", "uid", "resourceVersion", "labels")
    status: Mapping[str, Any] = node.get("status") or {}
    ready = [condition for condition in status.get("conditions") or () if condition.get("type") == "Ready"]
    return {
        "apiVersion": node["apiVersion"],
        "kind": node["kind"],
        "metadata": {name: node["metadata"][name] for name in names if name in node["metadata"]},
        "spec": {
            name: value for name, value in (node.get("spec") or {}).items() if name in {"unschedulable", "taints"}
        },
        "status": {
            "allocatable": status.get("allocatable") or {},
            "conditions": [{"type": "Ready", "status": condition.get("status")} for condition in ready],
        },
    }


def _without_version(obj: Json) -> Json:
    return {**obj, "metadata": {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}}
