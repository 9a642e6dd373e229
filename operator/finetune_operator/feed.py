"""From what was observed to which keys have to be handled. Decides nothing about any of them."""

from collections.abc import Callable, Iterable, Sequence

from finetune_operator.cache import Cache
from finetune_operator.kinds import Kind
from finetune_operator.ports import Change, Json, Key, Resource, key_of
from finetune_operator.workqueue import WorkQueue

_COALESCE_SECONDS = 0.5
"""What is cluster-scoped concerns many: a rolling change of a thousand nodes is one look at each, not a thousand."""

Observer = Callable[[Change], None]


class Feed:
    """Takes in events and lists, and enqueues whom they concern.

    Args:
        kinds: the table of kinds.
        observers: called with every change as well.
    """

    def __init__(
        self, cache: Cache, queue: WorkQueue[Key], kinds: Sequence[Kind], observers: Sequence[Observer] = ()
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._kinds = kinds
        self._related = [kind.related() for kind in kinds]
        self._resources = {kind.resource for kind in kinds}
        self._observers = observers

    def observe(self, resource: Resource, event: str | None, obj: Json) -> None:
        """A watch event."""
        change = self._cache.take(resource, event, obj)
        if change is not None:
            self.announce([change])

    def announce(self, changes: Iterable[Change]) -> None:
        """These objects are new, changed or gone."""
        for change in changes:
            for observer in self._observers:
                observer(change)
            delay = 0.0 if change.resource.is_namespaced else _COALESCE_SECONDS
            for key in self._concerned(change):
                self._queue.add_after(key, delay)

    def wake_unfinished(self) -> None:
        """Look at every object that is not at rest: whatever event was lost, this makes up for it."""
        for kind in self._kinds:
            for obj in self._cache.all(kind.resource):
                if not kind.is_at_rest(obj):
                    self._queue.add(key_of(kind.resource, obj))

    def _concerned(self, change: Change) -> Iterable[Key]:
        own = [change.key] if change.resource in self._resources else []
        return dict.fromkeys(own + [key for related in self._related for key in related(change)])
