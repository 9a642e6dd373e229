"""The kinds of objects that are reconciled: one entry each, which is all that the queue and the cache know of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune_contract.names import LABEL_MANAGED_BY, MANAGED_BY
from finetune_operator.cache import Watched
from finetune_operator.core.options import Options
from finetune_operator.finetunejob import JobPlanner
from finetune_operator.gpuclass import ClassPlanner
from finetune_operator.ports import (
    FINETUNEJOBS,
    GPUCLASSES,
    JOBS,
    NODES,
    PODS,
    Clock,
    EventSink,
    Json,
    Key,
    KubeApi,
    Observed,
    ProgressSource,
    Resource,
)
from finetune_operator.reconciler import Outcome, Planner, Reconciler
from finetune_operator.relations import ConcernedJobs, Related, concerned_classes, is_finished

OURS: Mapping[str, str] = {LABEL_MANAGED_BY: MANAGED_BY}


@dataclass(frozen=True)
class Tools:
    """What planners are made of."""

    api: KubeApi
    observed: Observed
    progress: ProgressSource
    events: EventSink
    clock: Clock
    options: Options


@dataclass(frozen=True)
class Kind:
    """To add a kind: its entry here, and in `core/` its snapshot and its chain."""

    resource: Resource
    planner: Callable[[Tools], Planner]
    """Makes the part of the reconciler that is this kind's own."""
    related: Callable[[], Related] = lambda: lambda change: ()
    """Makes what says whom of this kind a change of another object concerns."""
    watches: Watched = field(default_factory=dict)
    """The other resources that it has to see."""
    is_at_rest: Callable[[Json], bool] = lambda obj: False
    """Says of an object that it needs no look without an event."""


KINDS: Sequence[Kind] = (
    Kind(
        GPUCLASSES,
        planner=lambda tools: ClassPlanner(tools.observed),
        related=lambda: concerned_classes,
        watches={NODES: None},
    ),
    Kind(
        FINETUNEJOBS,
        planner=lambda tools: JobPlanner(tools.api, tools.observed, tools.progress, tools.clock, tools.options),
        related=ConcernedJobs,
        watches={GPUCLASSES: None, NODES: None, PODS: OURS, JOBS: OURS},
        is_at_rest=is_finished,
    ),
)


def watched_by(kinds: Iterable[Kind]) -> Watched:
    """Everything that has to be watched: what a kind needs to see, then the kind itself."""
    watched: dict[Resource, Mapping[str, str] | None] = {}
    for kind in kinds:
        watched |= {**kind.watches, kind.resource: None}
    return watched


class Dispatcher:
    """Hands each key to the reconciler of its kind."""

    def __init__(self, kinds: Iterable[Kind], tools: Tools) -> None:
        self._reconcilers = {
            kind.resource.kind: Reconciler(kind.resource, kind.planner(tools), tools.api, tools.observed, tools.events)
            for kind in kinds
        }

    async def reconcile(self, key: Key) -> Outcome:
        return await self._reconcilers[key.kind].reconcile(key)
