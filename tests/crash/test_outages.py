"""F8 and F9: an API server that is away, silent, or refuses the operator for minutes.

What runs keeps running; when the server is back, the operator is at work within 90 s, without a restart, and the end is
that of the reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from finetune_operator.ports import FINETUNEJOBS, JOBS, PODS, Resource, Retryable
from tests.crash.faults import REPEATED_WRITES, assert_same_end, reference
from tests.crash.harness import Play, Scenario, play
from tests.fakes.kubernetes import Faults
from tests.fakes.simulation import Fate

RECOVERY_SECONDS = 90.0
LONGEST_RECONNECT_SECONDS = 30.0
"""Of kopf's watch: its pause after a failed connection is no longer than this (settings.configure_kopf)."""
SILENCE_SECONDS = 70.0
"""After which kopf opens a silent watch anew (`inactivity_timeout`)."""
QUIET_SECONDS = 200.0
"""Longer than the longest backoff."""
MOST_REQUESTS = 60
"""In five minutes in which each of them fails: backoff, no hot loop (P6)."""

JOB = Scenario("each stage takes a minute", "Succeeded", fates={f"faq-r1-{one}": Fate(ticks=7) for one in ("p1", "a1")})
MOMENTS = {"at the start": None, "in preparation": "faq-r1-p1", "in training": "faq-r1-a1"}


@dataclass(frozen=True)
class Outage:
    """Of an operator's connection."""

    name: str
    error: str = ""
    """Answer to the requests that are concerned; empty for none."""
    concerns: Callable[[str, Resource], bool] = lambda verb, resource: True
    """By verb and resource."""
    resets: bool = False
    """Every write is committed, and the connection is reset before the answer."""
    cuts_watch: bool = True
    seconds: float = 300.0


OUTAGES = [
    Outage("the API server refuses connections", "Cannot connect to host"),
    Outage("connections are reset after each write", resets=True),
    Outage("the watch is silent", seconds=SILENCE_SECONDS),
    Outage("the token is refused", "401: Unauthorized"),
    Outage(
        "the right to create Jobs is revoked",
        '403: User "operator" cannot create resource "jobs"',
        lambda verb, resource: (verb, resource) == ("create", JOBS),
        cuts_watch=False,
    ),
    Outage(
        "the right to write statuses is revoked",
        '403: User "operator" cannot update resource "finetunejobs/status"',
        lambda verb, resource: (verb, resource) == ("replace_status", FINETUNEJOBS),
        cuts_watch=False,
    ),
]
RIGHTS_REVOKED = [outage for outage in OUTAGES if "403" in outage.error]


@dataclass
class Course:
    """What was seen of one outage."""

    result: Play
    began: float = 0.0
    ended: float = 0.0
    failed_requests: int = 0
    stopped_pods: int = 0

    def recovery_seconds(self) -> float:
        """From the end of the outage to the operator's next write; 0 where nothing was left to do."""
        later = [write.at - self.ended for write in self.result.writes if write.at >= self.ended]
        return later[0] if later else 0.0


def _play(outage: Outage, moment: str) -> Course:
    seen: list[Course] = []

    async def strike(result: Play) -> None:
        course = Course(result)
        seen.append(course)
        await _wait_for(result, MOMENTS[moment])
        await _interrupt(outage, course)

    play(JOB, script=strike, quiet_seconds=QUIET_SECONDS)
    return seen[0]


async def _wait_for(result: Play, job: str | None) -> None:
    """Until the pods of this Job run."""
    while job is not None and not result.simulation.running_pods(job):  # noqa: ASYNC110 - time is virtual
        await asyncio.sleep(1)


async def _interrupt(outage: Outage, course: Course) -> None:
    loop = asyncio.get_running_loop()
    operator, changes = course.result.operators[0], len(course.result.cluster.history)
    faults = operator.connection.faults

    def answer(verb: str, resource: Resource) -> Exception | None:
        if not (outage.error and outage.concerns(verb, resource)):
            return None
        course.failed_requests += 1
        return Retryable(outage.error)

    course.began = loop.time()
    faults.answer = answer
    if outage.resets:
        faults.error_after = dict.fromkeys(range(1000), Retryable("Connection reset by peer"))
    watch = operator.watch if outage.cuts_watch else None
    if watch is not None:
        watch.cut()
    await asyncio.sleep(outage.seconds)
    faults.answer, faults.error_after = Faults().answer, {}
    course.ended = loop.time()
    meanwhile = course.result.cluster.history[changes:]
    course.stopped_pods = sum(
        "deletionTimestamp" in each.obj["metadata"] for each in meanwhile if each.resource == PODS
    )
    if watch is not None:
        await asyncio.sleep(LONGEST_RECONNECT_SECONDS)
        watch.resume()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_what_runs_keeps_running_and_the_end_is_the_same(outage: Outage, moment: str) -> None:
    course = _play(outage, moment)
    assert course.stopped_pods == 0
    most = len(reference(JOB).writes) + REPEATED_WRITES
    once_a_second = outage.seconds + LONGEST_RECONNECT_SECONDS + 1  # while the cache is older than the server
    assert_same_end(JOB, f"{outage.name} {moment}", course.result, most, once_a_second)
    assert len(course.result.operators) == 1, "the process was restarted"
    assert course.failed_requests <= MOST_REQUESTS


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_it_is_at_work_again_within_ninety_seconds(outage: Outage, moment: str) -> None:
    assert _play(outage, moment).recovery_seconds() <= RECOVERY_SECONDS


@pytest.mark.parametrize("outage", RIGHTS_REVOKED, ids=lambda outage: outage.name)
def test_it_is_at_work_again_within_ninety_seconds_of_the_worst_moment(outage: Outage) -> None:
    just_after_a_try = replace(outage, seconds=250)
    assert _play(just_after_a_try, "at the start").recovery_seconds() <= RECOVERY_SECONDS


@pytest.mark.parametrize("outage", RIGHTS_REVOKED, ids=lambda outage: outage.name)
def test_revoked_rights_are_counted_as_reconcile_errors(outage: Outage) -> None:
    failures = _play(outage, "in preparation").result.operators[0].failures
    assert failures
    assert set(failures) == {"Retryable"}
