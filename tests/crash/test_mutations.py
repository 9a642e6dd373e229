"""The crash harness can fail: with a guard taken out of the code under test, it finds the fault."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from finetune_operator import finetunejob
from finetune_operator.core import decide as decide_module
from finetune_operator.core.policies import creation, suspend
from finetune_operator.core.policies.creation import wait_for_earlier_pods
from finetune_operator.core.policies.final import keep_verdict
from finetune_operator.core.snapshot import Obstacle, ObstacleKind, Snapshot
from finetune_operator.finetunejob import JobPlanner
from finetune_operator.ports import Json
from tests.crash.harness import play
from tests.crash.invariants import check_all
from tests.crash.scenarios import SCENARIOS
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import FakeCluster, Faults
from tests.fakes.observed import FakeObserved
from tests.fakes.operator import FakeOperator

Mutate = Callable[[pytest.MonkeyPatch], None]


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
    patch.setattr(finetunejob, "_obstacle", lambda *_: Obstacle(ObstacleKind.FOREIGN, "Job", "somebody's"))


def _forget_that_the_child_was_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(suspend, "advance", lambda draft: draft.update(child={}))


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(_job_before_status, id="the Job is created before its number is written down"),
        pytest.param(_trust_the_cache, id="nothing is looked up at the server"),
        pytest.param(_never_adopt, id="a child that is there already is never adopted"),
        pytest.param(_without_policy(wait_for_earlier_pods), id="the earlier pods are not waited for"),
        pytest.param(_without_policy(keep_verdict), id="the verdict is not kept"),
        pytest.param(_forget_that_the_child_was_there, id="the number is used again after a suspension"),
    ],
)
async def test_a_missing_guard_is_found(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    references = [(await play(scenario)).ending() for scenario in SCENARIOS]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        await _play_all(references)


async def _play_all(references: list[Json]) -> None:
    for scenario, reference in zip(SCENARIOS, references, strict=True):
        for index in range(14):
            result = await play(scenario, first=_killed_after(index), after_crash=_with_old_list)
            assert result.ending() == reference
            check_all(result)


def _killed_after(index: int) -> Callable[[FakeCluster, FakeClock], FakeOperator]:
    return lambda cluster, clock: FakeOperator(cluster, clock, faults=Faults(crash_after=index))


def _with_old_list(cluster: FakeCluster, clock: FakeClock) -> FakeOperator:
    return FakeOperator(cluster, clock, observed=FakeObserved(cluster, behind=12), blind_steps=3)
