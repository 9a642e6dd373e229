"""An operator process on a FakeCluster: one reconciler with a memory of its own, that can be thrown away."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from finetune_contract.progress import ProgressRecord
from finetune_operator.core.options import Options
from finetune_operator.kinds import KINDS, Dispatcher, Tools
from finetune_operator.ports import Event, Json, Key, Retryable
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import FakeCluster, FakeKubeApi, Faults
from tests.fakes.observed import FakeObserved

OPTIONS = Options(trainer_image="registry/finetune-trainer:1")
_MOST_STEPS = 50


@dataclass
class FakeProgress:
    """`ports.ProgressSource`: what rank 0 would have answered."""

    records: dict[tuple[int, int], ProgressRecord] = field(default_factory=dict)

    def latest(self, key: Key, run: int, attempt: int) -> ProgressRecord | None:
        return self.records.get((run, attempt))


@dataclass
class FakeEvents:
    """`ports.EventSink`: keeps what was posted."""

    posted: list[Event] = field(default_factory=list)

    async def post(self, involved: Json, event: Event) -> None:
        self.posted.append(event)


class FakeOperator:
    """Args:
    faults: on its connection to the API server.
    observed: its cache; one that is up to date when left out.
    sweep_seconds: how often a list repairs what the watches missed.
    blind_steps: so many reconciles see no watch event: they work on the list that the process started with.
    """

    def __init__(
        self,
        cluster: FakeCluster,
        clock: FakeClock,
        *,
        faults: Faults | None = None,
        observed: FakeObserved | None = None,
        blind_steps: int = 0,
        sweep_seconds: float | None = None,
        pauses: Iterator[int] | None = None,
        options: Options = OPTIONS,
    ) -> None:
        self.api = FakeKubeApi(cluster, faults, pauses)
        self.observed = observed or FakeObserved(cluster)
        self.progress = FakeProgress()
        self.events = FakeEvents()
        tools = Tools(self.api, self.observed, self.progress, self.events, clock, options)
        self.reconciler = Dispatcher(KINDS, tools)
        self._clock = clock
        self._blind_steps = blind_steps
        self._due: datetime | None = clock.now()
        self._sweep_seconds = sweep_seconds
        self._swept = clock.now()

    async def settle(self, key: Key) -> None:
        """Reconcile as the queue would, for as long as there are events or an earlier look was asked for."""
        self._sweep()
        for _ in range(_MOST_STEPS):
            if not (self._sees_events() or self._is_due()):
                return
            await self._step(key)
        raise AssertionError(f"{key} does not come to rest")

    def _sweep(self) -> None:
        now = self._clock.now()
        if self._sweep_seconds is not None and now - self._swept >= timedelta(seconds=self._sweep_seconds):
            self.observed.sweep()
            self._swept, self._due = now, now

    def _sees_events(self) -> bool:
        if self._blind_steps > 0:
            self._blind_steps -= 1
            return True
        return self.observed.catch_up()

    def _is_due(self) -> bool:
        return self._due is not None and self._due <= self._clock.now()

    async def _step(self, key: Key) -> None:
        try:
            outcome = await self.reconciler.reconcile(key)
        except Retryable:
            self._due = self._clock.now() + timedelta(seconds=1)
            return
        wait = outcome.requeue_after
        self._due = None if wait is None else self._clock.now() + timedelta(seconds=wait)
