"""The one waiter: gives up when nothing moves, and never while something does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev.localcluster.waiting import GaveUpError, until


class Time:
    """A clock that only a sleep advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_first_true_answer_is_returned() -> None:
    time, answers = Time(), iter([None, "", "there"])
    assert until("it is there", lambda: next(answers), clock=time, sleep=time.sleep) == "there"


def test_the_limit_ends_a_wait_that_says_what_it_waited_for_and_what_was_seen() -> None:
    time = Time()
    with pytest.raises(GaveUpError, match=r"^gave up after 30 s: the node is Ready\nthe kubelet's log$"):
        until("the node is Ready", lambda: False, clock=time, sleep=time.sleep, explain=lambda: "the kubelet's log")
    assert 30 < time.now < 31


def test_the_limit_counts_from_the_last_progress() -> None:
    time = Time()
    with pytest.raises(GaveUpError):
        until(
            "it is over",
            lambda: False,
            seconds=300,
            pause=1,
            progress=lambda: min(time.now, 1000) // 100,
            clock=time,
            sleep=time.sleep,
        )
    assert 1300 <= time.now <= 1320, "five minutes after the last change at 1000 s, but for the pace of looking"


def test_a_wait_goes_on_as_long_as_something_moves() -> None:
    time = Time()
    until(
        "a day is over",
        lambda: time.now > 86_400,
        seconds=300,
        pause=10,
        progress=lambda: time.now // 290,
        clock=time,
        sleep=time.sleep,
    )


def test_progress_is_looked_at_far_less_often_than_the_probe() -> None:
    time, looks = Time(), 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return 0

    with pytest.raises(GaveUpError):
        until("never", lambda: False, seconds=300, pause=0.1, progress=look, clock=time, sleep=time.sleep)
    assert looks <= 22


def test_a_probe_may_end_the_wait_by_an_error_of_its_own() -> None:
    def fail() -> Iterator[None]:
        raise RuntimeError("the daemon ended")

    with pytest.raises(RuntimeError, match="the daemon ended"):
        until("the daemon is ready", fail)
