"""One handler per key at a time, nothing lost, failures spaced out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.workqueue import Backoff, RetryLater, WorkQueue, work
from tests.fakes.virtualtime import run

STEADY = Backoff(first=1, longest=8, jitter=0)


def now() -> float:
    return asyncio.get_running_loop().time()


async def drain(queue: WorkQueue[str], seconds: float, handle: object = None) -> list[tuple[str, float]]:
    """Keys with the time at which they came up, within so many seconds."""
    started, seen = now(), []

    async def note(key: str) -> float | None:
        seen.append((key, round(now() - started, 3)))
        return await handle(key) if handle else None  # type: ignore[operator]

    try:
        async with asyncio.timeout(seconds):
            await work(queue, note, workers=2)
    except TimeoutError:
        pass
    return seen


def test_a_key_that_waits_is_not_added_twice() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        for _ in range(1000):
            queue.add("a")
        queue.add("b")
        assert len(queue) == 2
        return await drain(queue, 5)

    assert run(main()) == [("a", 0), ("b", 0)]


def test_a_key_added_while_it_is_handled_comes_up_once_more_afterwards() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        queue.add("a")
        rounds = iter([True, False])

        async def handle(key: str) -> None:
            if next(rounds):
                queue.add(key)
                queue.add(key)
                await asyncio.sleep(2)

        return await drain(queue, 10, handle)

    assert run(main()) == [("a", 0), ("a", 2)]


def test_the_earliest_wish_counts_and_being_handled_fulfils_it() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        queue.add_after("a", 9)
        queue.add_after("a", 3)
        queue.add_after("a", 5)
        queue.add_after("b", 4)
        queue.add("b")
        return await drain(queue, 20)

    assert run(main()) == [("b", 0), ("a", 3)]


def test_failures_double_the_delay_up_to_the_longest_and_success_resets_it() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        queue.add("a")
        failures = iter([True] * 5 + [False, True, False])

        async def handle(_: str) -> float | None:
            if next(failures):
                raise RetryLater("not now")
            return 100.0

        return await drain(queue, 140, handle)

    assert [at for _, at in run(main())] == [0, 1, 3, 7, 15, 23, 123, 124]


def test_a_pause_that_the_server_asked_for_holds_back_events_too() -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        queue.add("a")
        rounds = iter([True, False])

        async def handle(_: str) -> None:
            if next(rounds):
                asyncio.get_running_loop().call_later(1, queue.add, "a")
                raise RetryLater("429", delay=30)

        return await drain(queue, 60, handle)

    assert run(main()) == [("a", 0), ("a", 30)]


def test_a_bug_in_one_key_is_shown_and_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        queue.add("bug")
        queue.add("b")

        async def handle(key: str) -> None:
            if key == "bug":
                raise KeyError("oops")

        return await drain(queue, 2, handle)

    with caplog.at_level(logging.ERROR):
        seen = run(main())
    assert ("b", 0) in seen
    assert [key for key, _ in seen].count("bug") == 2
    assert "unexpected KeyError" in caplog.text


def test_a_worker_that_is_cancelled_while_it_waits_loses_no_key() -> None:
    async def main() -> str:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        first, second = (asyncio.create_task(queue.take()) for _ in range(2))
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first one, which is cancelled before it runs
        first.cancel()
        return await second

    assert run(main()) == "a"


def test_it_says_when_no_worker_takes_anything() -> None:
    async def main() -> tuple[float, float, float]:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        await asyncio.sleep(500)
        idle = queue.stalled_for()
        queue.add("a")
        await asyncio.sleep(50)
        stalled = queue.stalled_for()
        await drain(queue, 1)
        return idle, stalled, queue.stalled_for()

    assert run(main()) == (0, 50, 0)


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.floats(0, 3),  # pause before it
            st.one_of(st.none(), st.floats(0, 5)),  # add, or add after
        ),
        max_size=30,
    ),
    fates=st.lists(st.sampled_from(["ok", "retry", "bug", "slow"]), min_size=1, max_size=8),
    workers=st.integers(1, 4),
)
def test_whatever_is_added_is_handled_after_it_and_never_twice_at_once(
    steps: list[tuple[str, float, float | None]], fates: list[str], workers: int
) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(STEADY)
        busy: set[str] = set()
        added: dict[str, float] = {}
        handled: dict[str, float] = {}
        calls: Counter[str] = Counter()

        async def handle(key: str) -> None:
            assert key not in busy
            busy.add(key)
            started = now()
            fate = fates[calls.total() % len(fates)] if calls.total() < 40 else "ok"
            calls[key] += 1
            try:
                await asyncio.sleep(1 if fate == "slow" else 0.01)
                if fate == "retry":
                    raise RetryLater("later", delay=2)
                if fate == "bug":
                    raise ValueError("bug")
                handled[key] = started
            finally:
                busy.discard(key)

        task = asyncio.create_task(work(queue, handle, workers=workers))
        for key, pause, delay in steps:
            await asyncio.sleep(pause)
            queue.add(key) if delay is None else queue.add_after(key, delay)
            added[key] = now()
        await asyncio.sleep(500)
        task.cancel()
        assert handled.keys() == added.keys()
        assert all(handled[key] >= at for key, at in added.items())
        assert len(queue) == 0

    logging.disable(logging.CRITICAL)
    try:
        run(main())
    finally:
        logging.disable(logging.NOTSET)
