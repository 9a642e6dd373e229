"""A de-duplicating queue of keys, and the workers that empty it.

Owns when a key is handled: at once, later, or after a failure with growing delays. Two workers never handle the same
key at the same time; a key that is added while it is handled comes up once more. Knows nothing of Kubernetes.
"""

import asyncio
import heapq
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Backoff:
    """Delays after failures in a row: `first`, twice that, … up to `longest` seconds, each within ±`jitter`."""

    first: float = 0.5
    longest: float = 60.0
    jitter: float = 0.2
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int) -> float:
        """Before the try that follows this many failures (1 or more)."""
        doublings = min(failures - 1, 32)  # beyond it the float only grows
        planned = min(self.first * 2.0**doublings, self.longest)
        return planned * self.uniform(1 - self.jitter, 1 + self.jitter)


class WorkQueue(Generic[K]):
    """Keys to be handled; belongs to one event loop, whose clock it uses.

    Args:
        backoff: delays of `retry`.
        on_wait: called with the seconds that a key was ready before a worker took it.
    """

    def __init__(self, backoff: Backoff | None = None, on_wait: Callable[[float], None] = lambda seconds: None) -> None:
        self._backoff = backoff or Backoff()
        self._on_wait = on_wait
        self._ready: deque[K] = deque()
        self._ready_since: dict[K, float] = {}
        self._busy: set[K] = set()
        self._again: set[K] = set()  # added while busy
        self._due: dict[K, float] = {}
        self._timeline: list[tuple[float, int, K]] = []  # heap; an entry counts only while `_due` agrees with it
        self._order = 0
        self._failures: dict[K, int] = {}
        self._held_until: dict[K, float] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._last_taken = 0.0

    def __len__(self) -> int:
        """Keys that wait for a worker, without those that are due later."""
        return len(self._ready)

    # --- adding ---------------------------------------------------------------------------------------------------
    def add(self, key: K) -> None:
        """Handle this key as soon as a worker is free, unless the server asked for a pause (`retry`)."""
        pause = self._held_until.get(key, 0.0) - self._now()
        if pause > 0:
            self.add_after(key, pause)
        else:
            self._make_ready(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Handle this key in so many seconds. The earliest request counts, and being handled fulfils it."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._now() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._order += 1
            heapq.heappush(self._timeline, (due, self._order, key))
            self._set_alarm()

    def retry(self, key: K, at_least: float | None = None) -> float:
        """Handle this key again after a failure; returns the delay in seconds.

        `at_least` is a pause that was asked for: until it is over, nothing brings the key up.
        """
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = self._backoff.delay(failures)
        if at_least is not None:
            delay = max(delay, at_least)
            self._held_until[key] = self._now() + at_least
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """It went well: the next failure is the first one again."""
        self._failures.pop(key, None)
        self._held_until.pop(key, None)

    # --- taking ---------------------------------------------------------------------------------------------------
    async def take(self) -> K:
        """The next key, which is busy from now on until `done`."""
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the call was for us; pass it on
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        key = self._ready.popleft()
        self._last_taken = self._now()
        self._on_wait(self._last_taken - self._ready_since.pop(key))
        self._due.pop(key, None)
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def stalled_for(self) -> float:
        """Seconds in which a key was ready and no worker took any: 0 in a healthy process."""
        if not self._ready:
            return 0.0
        return self._now() - max(self._last_taken, self._ready_since[self._ready[0]])

    # --- inside ---------------------------------------------------------------------------------------------------
    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _make_ready(self, key: K) -> None:
        if key in self._busy:
            self._again.add(key)
        elif key not in self._ready_since:
            self._ready.append(key)
            self._ready_since[key] = self._now()
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        """One timer, for the earliest entry that still counts."""
        while self._timeline and self._due.get(self._timeline[0][2]) != self._timeline[0][0]:
            heapq.heappop(self._timeline)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._timeline:
            self._alarm = asyncio.get_running_loop().call_at(self._timeline[0][0], self._ring)

    def _ring(self) -> None:
        now = self._now()
        while self._timeline and self._timeline[0][0] <= now:
            due, _, key = heapq.heappop(self._timeline)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._set_alarm()


class RetryLater(Exception):
    """Raised by a handler that failed in an expected way: handle the key again, at the earliest after `delay`."""

    def __init__(self, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay


async def work(
    queue: WorkQueue[K],
    handle: Callable[[K], Awaitable[float | None]],
    *,
    workers: int,
    on_error: Callable[[K, Exception], None] = lambda key, error: None,
) -> None:
    """Handle keys until cancelled.

    Args:
        handle: returns after how many seconds it wants the key again, None for not on its own. What it raises is
            retried with growing delays: `RetryLater` quietly, anything else is a bug and logged with its traceback.
        workers: how many keys are handled at the same time.
    """

    async def worker() -> None:
        while True:
            key = await queue.take()
            try:
                again = await handle(key)
            except RetryLater as error:
                on_error(key, error)
                delay = queue.retry(key, error.delay)
                logger.info("%s: will be tried again in %.1f s: %s", key, delay, error)
            except Exception as error:
                on_error(key, error)
                delay = queue.retry(key)
                logger.exception("%s: unexpected %s, again in %.1f s", key, type(error).__name__, delay)
            else:
                queue.forget(key)
                if again is not None:
                    queue.add_after(key, again)
            finally:
                queue.done(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
