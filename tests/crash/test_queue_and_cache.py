"""F4: events that arrive twice, late, in any order or not at all, a thousand in a second: one reconcile per key at a
time, the cache never goes back in time, and the last reconcile of each key sees the truth.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from finetune_operator import cache as cache_module
from finetune_operator.feed import Feed
from finetune_operator.kinds import KINDS, watched_by
from finetune_operator.ports import FINETUNEJOBS, Json, Key
from finetune_operator.workqueue import Backoff, RetryLater, WorkQueue, work
from tests.builders.jobs import NAMESPACE, make_job
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import FakeCluster, FakeKubeApi
from tests.fakes.operator import key_of_job
from tests.fakes.virtualtime import VirtualLoop, in_virtual_time

_SEARCH = (Phase.generate,)  # a counterexample is enough, it need not be the shortest
NAMES = ("a", "b", "c")


class Worker:
    """The real cache, feed and queue, with a handler that only notes what it sees."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(LoopClock())
        self.cache = cache_module.Cache(watched_by(KINDS), now=lambda: asyncio.get_running_loop().time())
        self.queue: WorkQueue[Key] = WorkQueue(Backoff(first=1, longest=8, jitter=0))
        self.feed = Feed(self.cache, self.queue, KINDS)
        self.busy: Counter[Key] = Counter()
        self.seen: dict[Key, Json | None] = {}
        self.calls: Counter[Key] = Counter()
        self.seconds = 0.05
        self.failures_left = 0
        self.buried: dict[str, int] = {}
        """Versions at which objects were deleted, as far as that event arrived."""

    async def run(self) -> None:
        await work(self.queue, self.handle, workers=4)

    async def handle(self, key: Key) -> None:
        self.busy[key] += 1
        self.calls[key] += 1
        try:
            seen = self.cache.find(key)
            await asyncio.sleep(self.seconds)
            if self.failures_left:
                self.failures_left -= 1
                raise RetryLater("not now")
            self.seen[key] = seen
        finally:
            self.busy[key] -= 1

    def annotate(self, name: str, text: str) -> None:
        annotations = {"note": text}
        self.cluster.edit(FINETUNEJOBS, NAMESPACE, name, lambda job: job["metadata"].update(annotations=annotations))

    def deliver(self, position: int) -> None:
        change = self.cluster.history[position]
        if change.type == "DELETED":
            version = int(change.obj["metadata"]["resourceVersion"])
            self.buried[change.ref[2]] = max(version, self.buried.get(change.ref[2], 0))
        self.feed.observe(change.resource, change.type, change.obj)

    async def resync(self) -> None:
        self.feed.announce(await cache_module.resync(self.cache, FakeKubeApi(self.cluster)))
        self.feed.wake_unfinished()

    def truth(self, name: str) -> Json | None:
        return self.cluster.find(FINETUNEJOBS, NAMESPACE, name)


def _version(obj: Json | None) -> str | None:
    return obj and obj["metadata"]["resourceVersion"]


class QueueAndCache(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.newest: dict[str, int] = {}
        self._await(self._begin())

    async def _begin(self) -> None:
        self.worker = Worker()
        self.life = asyncio.get_running_loop().create_task(self.worker.run())

    def _await(self, action: object) -> None:
        self.loop.run_until_complete(action)  # type: ignore[arg-type]

    async def _do(self, action: object, *args: object) -> None:
        action(*args)  # type: ignore[operator]

    # --- the cluster changes ---------------------------------------------------------------------------------
    @rule(name=st.sampled_from(NAMES))
    def create_or_change(self, name: str) -> None:
        self._await(self._do(self._create_or_change, name))

    def _create_or_change(self, name: str) -> None:
        cluster = self.worker.cluster
        if self.worker.truth(name) is None:
            cluster.create(FINETUNEJOBS, NAMESPACE, make_job(name).bare())
            return
        self.worker.annotate(name, cluster.version)

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if self.worker.truth(name) is not None:
            self.worker.cluster.delete(FINETUNEJOBS, NAMESPACE, name)

    # --- its events arrive somehow ---------------------------------------------------------------------------
    @precondition(lambda self: self.worker.cluster.history)
    @rule(data=st.data())
    def deliver_any_event(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.worker.cluster.history) - 1))
        self._await(self._do(self.worker.deliver, position))

    @rule()
    def deliver_all_backwards(self) -> None:
        for position in reversed(range(len(self.worker.cluster.history))):
            self._await(self._do(self.worker.deliver, position))

    @rule()
    def resync(self) -> None:
        self._await(self.worker.resync())

    # --- the workers are slow or fail ------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([0.0, 0.05, 3.0]))
    def handling_takes(self, seconds: float) -> None:
        self.worker.seconds = seconds

    @rule(count=st.integers(1, 3))
    def the_next_ones_fail(self, count: int) -> None:
        self.worker.failures_left = count

    @rule(seconds=st.sampled_from([0.01, 1.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self._await(asyncio.sleep(seconds))

    # --- what holds ------------------------------------------------------------------------------------------
    @invariant()
    def one_reconcile_per_key_at_a_time(self) -> None:
        assert all(count <= 1 for count in self.worker.busy.values())

    @invariant()
    def the_cache_never_goes_back_in_time(self) -> None:
        for name in NAMES:
            cached = self.worker.cache.find(key_of_job(NAMESPACE, name))
            if cached is not None:
                version = int(cached["metadata"]["resourceVersion"])
                assert version >= self.newest.get(name, 0)
                assert version > self.worker.buried.get(name, 0), "a deleted object came back"
                self.newest[name] = version

    def teardown(self) -> None:
        try:
            self._await(asyncio.sleep(60))
            self._assert_handled()
            self._await(self.worker.resync())
            self._await(asyncio.sleep(60))
            self._assert_handled()
            for name in NAMES:
                cached = self.worker.cache.find(key_of_job(NAMESPACE, name))
                assert _version(cached) == _version(self.worker.truth(name)), "a resync leaves the cache wrong"
        finally:
            self.life.cancel()
            with suppress(asyncio.CancelledError):
                self._await(self.life)
            self.loop.close()

    def _assert_handled(self) -> None:
        for name in NAMES:
            key = key_of_job(NAMESPACE, name)
            assert _version(self.worker.seen.get(key)) == _version(self.worker.cache.find(key)), "a wake-up was lost"


_SETTINGS = settings(deadline=None, max_examples=60, stateful_step_count=25, derandomize=True, database=None)


def test_f4_whatever_the_order_of_events_the_last_reconcile_sees_the_truth() -> None:
    run_state_machine_as_test(QueueAndCache, settings=_SETTINGS)


def _lose_what_is_added_meanwhile(patch: pytest.MonkeyPatch) -> None:
    make_ready = WorkQueue._make_ready

    def careless(self: WorkQueue[Key], key: Key) -> None:
        if key not in self._busy:
            make_ready(self, key)

    patch.setattr(WorkQueue, "_make_ready", careless)


def _handle_a_busy_key(patch: pytest.MonkeyPatch) -> None:
    take = WorkQueue.take

    async def forgetful(self: WorkQueue[Key]) -> Key:
        key = await take(self)
        self._busy.discard(key)
        return key

    patch.setattr(WorkQueue, "take", forgetful)


def _go_back_in_time(patch: pytest.MonkeyPatch) -> None:
    put = cache_module._Store.put

    def forgetful(self: cache_module._Store, obj: Json, *, echoes: bool = False) -> bool:
        self._objects.pop(cache_module._ref(obj), None)
        return put(self, obj, echoes=echoes)

    patch.setattr(cache_module._Store, "put", forgetful)


def _bring_back_the_deleted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache_module._Store, "_bury", lambda self, ref, version: None)


def _keep_ghosts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache_module, "_is_ghost", lambda *_: False)


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(_lose_what_is_added_meanwhile, id="a key that is added while it is handled is lost"),
        pytest.param(_handle_a_busy_key, id="a key is handled by two workers at once"),
        pytest.param(_go_back_in_time, id="the cache goes back in time"),
        pytest.param(_bring_back_the_deleted, id="a late event brings back what was deleted"),
        pytest.param(_keep_ghosts, id="a resync leaves ghosts in the cache"),
    ],
)
def test_a_missing_guard_is_found(mutate: object, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            QueueAndCache, settings=settings(_SETTINGS, report_multiple_bugs=False, phases=_SEARCH)
        )


@in_virtual_time
async def test_a_thousand_updates_in_a_second_are_a_few_reconciles_and_the_last_sees_the_newest() -> None:
    worker = Worker()
    life = asyncio.create_task(worker.run())
    worker.cluster.create(FINETUNEJOBS, NAMESPACE, make_job("a").bare())
    for update in range(1000):
        note = {"note": str(update)}
        worker.cluster.edit(
            FINETUNEJOBS, NAMESPACE, "a", lambda job, note=note: job["metadata"].update(annotations=note)
        )
        worker.deliver(len(worker.cluster.history) - 1)
        await asyncio.sleep(0.001)
        assert max(worker.busy.values(), default=0) <= 1
    await asyncio.sleep(5)
    life.cancel()
    key = key_of_job(NAMESPACE, "a")
    assert worker.calls[key] <= 1 / worker.seconds + 2
    assert _version(worker.seen[key]) == _version(worker.truth("a"))
