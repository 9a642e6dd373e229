"""`ports.Observed` on a FakeCluster: a cache that is as old, and misses as much, as the test wants."""

from collections.abc import Callable, Sequence

from finetune_contract import names
from finetune_operator.core.fleet import Fleet
from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, JOBS, NODES, PODS, Json, Key, Resource
from tests.fakes.kubernetes import Change, FakeCluster, Ref


class FakeObserved:
    """Starts with what is there, as a list does; `catch_up` takes in what has happened since.

    Args:
        behind: how many changes of the history the first list is too old by (an API server's stale cache).
        is_lost: says of a position of the history whether its watch event never arrives.
    """

    def __init__(
        self, cluster: FakeCluster, behind: int = 0, is_lost: Callable[[int], bool] = lambda position: False
    ) -> None:
        self._cluster = cluster
        self._is_lost = is_lost
        self._objects: dict[Ref, Json] = {}
        self._departed: dict[Ref, Json] = {}
        self._position = 0
        listed = max(0, len(cluster.history) - behind)
        for change in cluster.history[:listed]:
            self._take(change)
        self._position = listed

    def catch_up(self) -> bool:
        """Take in the watch events up to now. True when there was one."""
        start, self._position = self._position, len(self._cluster.history)
        arrived = [index for index in range(start, self._position) if not self._is_lost(index)]
        for index in arrived:
            self._take(self._cluster.history[index])
        return bool(arrived)

    def sweep(self) -> None:
        """Repair what was missed, as a periodic list does."""
        self._objects.clear()
        for change in self._cluster.history:
            self._take(change)
        self._position = len(self._cluster.history)

    def _take(self, change: Change) -> None:
        known = self._objects.get(change.ref)
        if known is not None and _version(known) >= _version(change.obj):
            return
        if change.type == "DELETED":
            self._objects.pop(change.ref, None)
            if change.resource == PODS:
                self._departed[change.ref] = change.obj
        else:
            self._objects[change.ref] = change.obj

    # --- ports.Observed --------------------------------------------------------------------------------------
    def find(self, key: Key) -> Json | None:
        return self._objects.get((FINETUNEJOBS, key.namespace, key.name))

    def child_jobs(self, key: Key) -> Sequence[Json]:
        return self._children(JOBS, key)

    def child_pods(self, key: Key) -> Sequence[Json]:
        return self._children(PODS, key)

    def departed_pods(self, key: Key) -> Sequence[Json]:
        jobs = {job["metadata"]["uid"] for job in self.child_jobs(key)}
        return [pod for pod in self._departed.values() if pod["metadata"]["ownerReferences"][0]["uid"] in jobs]

    def fleet(self) -> Fleet:
        return Fleet.of(map(GpuClass.parse, self._all(GPUCLASSES)), map(Node.parse, self._all(NODES)))

    def note(self, resource: Resource, obj: Json) -> None:
        ref = (resource, obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        known = self._objects.get(ref)
        if known is None or _version(known) < _version(obj):
            self._objects[ref] = obj

    def _all(self, resource: Resource) -> list[Json]:
        return [obj for (kind, _, _), obj in self._objects.items() if kind == resource]

    def _children(self, resource: Resource, key: Key) -> list[Json]:
        return [
            obj
            for obj in self._all(resource)
            if obj["metadata"].get("namespace") == key.namespace
            and (obj["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
            and (obj["metadata"].get("labels") or {}).get(names.LABEL_JOB_NAME) == key.name
        ]


def _version(obj: Json) -> int:
    return int(obj["metadata"]["resourceVersion"])
