"""An operator process on a FakeCluster: the real cache, feed, queue and reconciler, with a memory that can be lost.

The one place in the tests that puts the parts together, as `__main__` does in the real process.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from finetune_contract.progress import ProgressRecord
from finetune_operator import cache
from finetune_operator.core.options import Options
from finetune_operator.feed import Feed
from finetune_operator.kinds import KINDS, Dispatcher, Tools, watched_by
from finetune_operator.ports import FINETUNEJOBS, ApiError, Event, Json, Key, KubeApi, Retryable
from finetune_operator.workqueue import Backoff, RetryLater, WorkQueue, work
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import Crash, FakeCluster, FakeKubeApi, Faults, Watch

OPTIONS = Options(trainer_image="registry/finetune-trainer:1")
_WORKERS = 2
_MOST_AT_ONCE = 200
"""Keys handled at one instant of virtual time: more is a loop that would never let the time go on."""


def key_of_job(namespace: str, name: str) -> Key:
    """Of a FineTuneJob."""
    return FINETUNEJOBS.key(namespace, name)


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
    """One process, to be made and run in the event loop whose time it lives in.

    Args:
        faults: on its connection to the API server.
        resync_seconds: how often a list repairs what the watch missed; None for never after the first one, so that
            nothing makes up for a lost wake-up.
        pauses: see FakeKubeApi.
        latency: see FakeKubeApi.
        client: what sends the requests over the connection; the connection itself when left out.
    """

    def __init__(
        self,
        cluster: FakeCluster,
        *,
        faults: Faults | None = None,
        resync_seconds: float | None = None,
        pauses: Iterator[int] | None = None,
        latency: Iterator[float] | None = None,
        client: Callable[[FakeKubeApi], KubeApi] = lambda connection: connection,
        options: Options = OPTIONS,
    ) -> None:
        self.connection = FakeKubeApi(cluster, faults, pauses, latency)
        self.api = client(self.connection)
        self.progress = FakeProgress()
        self.events = FakeEvents()
        self.cache = cache.Cache(watched_by(KINDS), now=lambda: asyncio.get_running_loop().time())
        self.queue: WorkQueue[Key] = WorkQueue(Backoff(jitter=0))
        self.feed = Feed(self.cache, self.queue, KINDS)
        tools = Tools(self.api, self.cache, self.progress, self.events, LoopClock(), options)
        self.reconciler = Dispatcher(KINDS, tools)
        self.watch: Watch | None = None
        self.failures: list[str] = []
        """Names of the errors that a key was retried for."""
        self.bugs: list[Exception] = []
        """Unexpected errors: the queue retries them too, a test must not."""
        self._resync_seconds = resync_seconds
        self._handled: tuple[float, int] = (0.0, 0)

    async def run(self) -> None:
        """Until cancelled; raises Crash where a fault ends the process."""
        try:
            await self._resync()
            async with asyncio.TaskGroup() as group:
                group.create_task(work(self.queue, self._handle, workers=_WORKERS, on_error=self._count_error))
                self.watch = self.connection.watch(self.feed.observe)
                if self._resync_seconds is not None:
                    group.create_task(_resync_every(self._resync_seconds, self._resync))
        except* Crash as crashes:
            raise Crash from crashes
        finally:
            if self.watch is not None:
                self.watch.stop()

    async def _stop_hot_loop(self) -> None:
        now = asyncio.get_running_loop().time()
        instant, count = self._handled
        self._handled = (now, count + 1 if now == instant else 1)
        if self._handled[1] == _MOST_AT_ONCE:
            self.bugs.append(AssertionError(f"{_MOST_AT_ONCE} keys were handled in no time"))
            await asyncio.sleep(3600)

    # --- as in __main__ --------------------------------------------------------------------------------------
    async def _handle(self, key: Key) -> float | None:
        await self._stop_hot_loop()
        try:
            return (await self.reconciler.reconcile(key)).requeue_after
        except Retryable as error:
            raise RetryLater(str(error), error.delay) from error

    async def _resync(self) -> None:
        pause = 0.5
        while True:
            try:
                missed = await cache.resync(self.cache, self.api)
            except ApiError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30)
            else:
                break
        self.feed.announce(missed)
        self.feed.wake_unfinished()

    def _count_error(self, key: Key, error: Exception) -> None:
        self.failures.append(type(error.__cause__ or error).__name__)
        if not isinstance(error, RetryLater):
            self.bugs.append(error)


async def _resync_every(seconds: float, do_resync: object) -> None:
    await cache.resync_forever(do_resync, sleep=asyncio.sleep, shortest=seconds, longest=seconds)  # type: ignore[arg-type]
