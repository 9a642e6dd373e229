"""Every scenario with every fault at every write: the end is that of the reference, and P1, P3 and P6 hold throughout.

For each write, before and after it: the process ends there, and a new one with empty memory goes on (F1). Beside that:
lists that are too old after the restart (F2), watch events that never arrive until a sweep (F3), conflicts (F5), errors
without (F6) and with the write committed (F7), two operators that interleave at every call (F10).

That these tests can fail is itself a test: test_mutations.py.
"""

import random
from collections.abc import Iterator

import pytest

from finetune_operator.ports import Conflict, Retryable
from tests.crash.harness import Play, Scenario, Start, play
from tests.crash.invariants import check_all
from tests.crash.scenarios import SCENARIOS
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import FakeCluster, Faults
from tests.fakes.observed import FakeObserved
from tests.fakes.operator import FakeOperator

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)

_references: dict[str, Play] = {}
_REPEATED_WRITES = 3
"""One fault costs at most so many writes more than the reference needs (P6)."""


async def _reference(scenario: Scenario) -> Play:
    if scenario.name not in _references:
        _references[scenario.name] = await play(scenario)
    return _references[scenario.name]


async def _assert_same_end(scenario: Scenario, fault: str, result: Play, writes: int | None = None) -> None:
    reference = await _reference(scenario)
    assert result.ending() == reference.ending(), fault
    check_all(result)
    most = (len(reference.writes) + _REPEATED_WRITES) if writes is None else writes
    assert len(result.writes) <= most, f"{fault}: {len(result.writes)} writes, at most {most} (P6)"


def _with(faults: Faults) -> Start:
    return lambda cluster, clock: FakeOperator(cluster, clock, faults=faults)


@every_scenario
async def test_f1_killed_before_each_write(scenario: Scenario) -> None:
    for index in range(len((await _reference(scenario)).writes)):
        result = await play(scenario, first=_with(Faults(crash_before=index)))
        await _assert_same_end(scenario, f"killed before write {index}", result)


@every_scenario
async def test_f1_killed_after_each_write(scenario: Scenario) -> None:
    for index in range(len((await _reference(scenario)).writes)):
        result = await play(scenario, first=_with(Faults(crash_after=index)))
        await _assert_same_end(scenario, f"killed after write {index}", result)


@every_scenario
@pytest.mark.parametrize("behind", [4, 1000])
async def test_f2_the_first_list_after_a_restart_is_old(scenario: Scenario, behind: int) -> None:
    def with_old_list(cluster: FakeCluster, clock: FakeClock) -> FakeOperator:
        return FakeOperator(cluster, clock, observed=FakeObserved(cluster, behind), blind_steps=3)

    for index in range(len((await _reference(scenario)).writes)):
        result = await play(scenario, first=_with(Faults(crash_after=index)), after_crash=with_old_list)
        writes = len((await _reference(scenario)).writes) + 2 * _REPEATED_WRITES
        await _assert_same_end(scenario, f"killed after write {index}, {behind} changes behind", result, writes)


@every_scenario
@pytest.mark.parametrize("seed", range(3))
async def test_f3_watch_events_are_lost(scenario: Scenario, seed: int) -> None:
    source = random.Random(seed)
    lost: dict[int, bool] = {}

    def deaf(cluster: FakeCluster, clock: FakeClock) -> FakeOperator:
        observed = FakeObserved(cluster, is_lost=lambda at: lost.setdefault(at, source.random() < 0.3))
        return FakeOperator(cluster, clock, observed=observed, sweep_seconds=60)

    result = await play(scenario, first=deaf)
    writes = 2 * len((await _reference(scenario)).writes)
    await _assert_same_end(scenario, f"events lost, seed {seed}", result, writes)


@every_scenario
async def test_f5_a_conflict_at_each_status_write(scenario: Scenario) -> None:
    for index, write in enumerate((await _reference(scenario)).writes):
        if write.verb == "replace_status":
            faults = Faults(error_before={index: Conflict("the object has been modified")})
            await _assert_same_end(scenario, f"conflict at write {index}", await play(scenario, first=_with(faults)))


@every_scenario
async def test_f6_an_error_instead_of_each_write(scenario: Scenario) -> None:
    for index in range(len((await _reference(scenario)).writes)):
        faults = Faults(error_before={index: Retryable("429", delay=1.0)})
        await _assert_same_end(scenario, f"error at write {index}", await play(scenario, first=_with(faults)))


@every_scenario
async def test_f7_each_write_is_committed_and_answered_by_an_error(scenario: Scenario) -> None:
    for index in range(len((await _reference(scenario)).writes)):
        faults = Faults(error_after={index: Retryable("time-out")})
        await _assert_same_end(scenario, f"time-out after write {index}", await play(scenario, first=_with(faults)))


@every_scenario
@pytest.mark.parametrize("seed", range(4))
async def test_f10_two_operators_at_once(scenario: Scenario, seed: int) -> None:
    source = random.Random(seed)

    def pausing(cluster: FakeCluster, clock: FakeClock) -> FakeOperator:
        return FakeOperator(cluster, clock, pauses=_pauses(source))

    result = await play(scenario, first=pausing, replicas=2)
    writes = 3 * len((await _reference(scenario)).writes)
    await _assert_same_end(scenario, f"two operators, seed {seed}", result, writes)


def _pauses(source: random.Random) -> Iterator[int]:
    while True:
        yield source.randrange(5)
