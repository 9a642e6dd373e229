"""The crash harness can fail: with a guard taken out of the code under test, it finds the fault."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from finetune_operator import cache as cache_module
from finetune_operator import finetunejob as finetunejob_module
from finetune_operator import relations as relations_module
from finetune_operator.core import decide as decide_module
from finetune_operator.core.policies import creation, suspend
from finetune_operator.core.policies.creation import wait_for_earlier_pods
from finetune_operator.core.policies.final import keep_verdict
from finetune_operator.core.snapshot import Obstacle, ObstacleKind, Snapshot
from finetune_operator.feed import Feed
from finetune_operator.finetunejob import JobPlanner
from finetune_operator.ports import FINETUNEJOBS, Change, Json, Retryable
from finetune_operator.workqueue import WorkQueue
from tests.crash.faults import (
    KEYS,
    QUIET_AFTER_RESYNC_SECONDS,
    assert_same_end,
    having,
    reference,
    with_losses,
    with_old_list,
)
from tests.crash.harness import Play, Scenario, play
from tests.crash.scenarios import SCENARIOS
from tests.fakes.kubernetes import Faults
from tests.fakes.operator import key_of_job

Mutate = Callable[[pytest.MonkeyPatch], None]
Search = Callable[[Scenario], Iterator[Play]]
"""Plays of a scenario, among which one finds the fault."""


# --- in the decisions ----------------------------------------------------------------------------------------
def _without_policy(policy: decide_module.Policy) -> Mutate:
    chain = tuple(other for other in decide_module.CHAIN if other is not policy)
    return lambda patch: patch.setattr(decide_module, "CHAIN", chain)


def _job_before_status(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(creation, "is_written_down", lambda draft: True)


def _trust_the_cache(patch: pytest.MonkeyPatch) -> None:
    async def pretend(self: JobPlanner, key: object, snapshot: Snapshot, trust: object) -> Snapshot:
        return replace(snapshot, trust=trust)

    patch.setattr(JobPlanner, "_from_server", pretend)


def _never_adopt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finetunejob_module, "_obstacle", lambda *_: Obstacle(ObstacleKind.FOREIGN, "Job", "somebody's"))


def _forget_that_the_child_was_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(suspend, "advance", lambda draft: draft.update(child={}))


# --- in the cache, the feed and the queue --------------------------------------------------------------------
def _wake_the_child_instead_of_its_owner(patch: pytest.MonkeyPatch) -> None:
    def wrong(obj: Json) -> object:
        return key_of_job(obj["metadata"]["namespace"], obj["metadata"]["name"])

    patch.setattr(relations_module, "job_key_of", wrong)


def _wake_only_for_the_job_itself(patch: pytest.MonkeyPatch) -> None:
    announce = Feed.announce

    def deaf(self: Feed, changes: Iterable[Change]) -> None:
        announce(self, [change for change in changes if change.resource == FINETUNEJOBS])

    patch.setattr(Feed, "announce", deaf)


def _keep_ghosts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cache_module, "_is_ghost", lambda *_: False)


def _never_retry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkQueue, "retry", lambda self, key, at_least=None: 0.0)


# --- where it is looked for ----------------------------------------------------------------------------------
def _killed_with_an_old_list_afterwards(scenario: Scenario) -> Iterator[Play]:
    for index in range(len(reference(scenario).writes)):
        yield play(scenario, first=having(Faults(crash_after=index)), after_crash=with_old_list(12))


def _undisturbed(scenario: Scenario) -> Iterator[Play]:
    yield play(scenario)


def _with_lost_events(scenario: Scenario) -> Iterator[Play]:
    for seed in range(3):
        yield play(scenario, first=with_losses(seed), quiet_seconds=QUIET_AFTER_RESYNC_SECONDS)


def _with_refused_writes(scenario: Scenario) -> Iterator[Play]:
    for index in range(len(reference(scenario).writes)):
        yield play(scenario, first=having(Faults(error_before={index: Retryable("503")})))


TABLE = [
    ("the Job is created before its number is written down", _job_before_status, _killed_with_an_old_list_afterwards),
    ("nothing is looked up at the server", _trust_the_cache, _killed_with_an_old_list_afterwards),
    ("a child that is there already is never adopted", _never_adopt, _killed_with_an_old_list_afterwards),
    (
        "the pods of the previous attempt are not waited for",
        _without_policy(wait_for_earlier_pods),
        _killed_with_an_old_list_afterwards,
    ),
    ("the verdict is not kept", _without_policy(keep_verdict), _killed_with_an_old_list_afterwards),
    (
        "the number is used again after a suspension",
        _forget_that_the_child_was_there,
        _killed_with_an_old_list_afterwards,
    ),
    ("an event of a child enqueues another key", _wake_the_child_instead_of_its_owner, _undisturbed),
    ("an event of a child enqueues nothing", _wake_only_for_the_job_itself, _undisturbed),
    ("a resync leaves ghosts in the cache", _keep_ghosts, _with_lost_events),
    ("a failed key is not tried again", _never_retry, _with_refused_writes),
]
"""What is broken, how, and the faults under which it is found."""


@pytest.mark.parametrize(("mutate", "search"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_a_missing_guard_is_found(mutate: Mutate, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    for scenario in SCENARIOS:
        reference(scenario)
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        _search(search)


def _search(search: Search) -> None:
    for scenario in SCENARIOS:
        most = 2 * len(reference(scenario).writes)
        for result in search(scenario):
            assert_same_end(scenario, "mutated", result, most, KEYS * result.seconds)
