"""Every scenario with every fault at every write: the end is that of the reference, and P1, P3 and P6 hold throughout.

For each write, before and after it: the process ends there, and a new one with empty memory takes over (F1). In
addition: lists that are too old after the restart (F2), watch events that never arrive until a resync (F3), that arrive
twice or out of order (F4), conflicts (F5), errors without (F6) and with the write committed (F7), calls that take
longer than pods do, two operators that interleave at every call (F10).

That these tests can fail is itself a test: test_mutations.py.
"""

import pytest

from finetune_operator.ports import Conflict, Retryable
from tests.crash.faults import (
    BLIND_SECONDS,
    KEYS,
    QUIET_AFTER_RESYNC_SECONDS,
    REPEATED_WRITES,
    assert_same_end,
    having,
    reference,
    with_disorder,
    with_latency,
    with_losses,
    with_old_list,
    with_pauses,
)
from tests.crash.harness import Scenario, play
from tests.crash.scenarios import SCENARIOS
from tests.fakes.kubernetes import Faults

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@every_scenario
def test_f1_killed_before_each_write(scenario: Scenario) -> None:
    for index in range(len(reference(scenario).writes)):
        result = play(scenario, first=having(Faults(crash_before=index)))
        assert_same_end(scenario, f"killed before write {index}", result)


@every_scenario
def test_f1_killed_after_each_write(scenario: Scenario) -> None:
    for index in range(len(reference(scenario).writes)):
        result = play(scenario, first=having(Faults(crash_after=index)))
        assert_same_end(scenario, f"killed after write {index}", result)


@every_scenario
@pytest.mark.parametrize("behind", [4, 1000])
def test_f2_the_first_list_after_a_restart_is_old(scenario: Scenario, behind: int) -> None:
    most = len(reference(scenario).writes) + REPEATED_WRITES
    refused = KEYS * (BLIND_SECONDS + 1)
    for index in range(len(reference(scenario).writes)):
        result = play(scenario, first=having(Faults(crash_after=index)), after_crash=with_old_list(behind))
        assert_same_end(scenario, f"killed after write {index}, {behind} changes behind", result, most, refused)


@every_scenario
@pytest.mark.parametrize("seed", range(3))
def test_f3_lost_watch_events_are_made_up_for_by_a_resync(scenario: Scenario, seed: int) -> None:
    result = play(scenario, first=with_losses(seed), quiet_seconds=QUIET_AFTER_RESYNC_SECONDS)
    most = 2 * len(reference(scenario).writes)
    assert_same_end(scenario, f"events lost, seed {seed}", result, most, KEYS * result.seconds)


@every_scenario
@pytest.mark.parametrize("seed", range(3))
def test_f4_watch_events_arrive_twice_and_out_of_order(scenario: Scenario, seed: int) -> None:
    result = play(scenario, first=with_disorder(seed))
    most = 2 * len(reference(scenario).writes)
    assert_same_end(scenario, f"disorder, seed {seed}", result, most, KEYS * result.seconds)


@every_scenario
def test_f5_a_conflict_at_each_status_write(scenario: Scenario) -> None:
    for index, write in enumerate(reference(scenario).writes):
        if write.verb == "replace_status":
            faults = Faults(error_before={index: Conflict("the object has been modified")})
            assert_same_end(scenario, f"conflict at write {index}", play(scenario, first=having(faults)))


@every_scenario
def test_f6_retry_after_is_respected_at_each_write(scenario: Scenario) -> None:
    for index in range(len(reference(scenario).writes)):
        faults = Faults(error_before={index: Retryable("429", delay=4.0)})
        result = play(scenario, first=having(faults))
        assert_same_end(scenario, f"error at write {index}", result)
        refused = result.writes[index]
        again = next((write for write in result.writes[index + 1 :] if write.name == refused.name), None)
        assert again is None or again.at >= refused.at + 4, f"write {index} was repeated too early"


@every_scenario
def test_f7_each_write_is_committed_and_answered_by_an_error(scenario: Scenario) -> None:
    for index in range(len(reference(scenario).writes)):
        faults = Faults(error_after={index: Retryable("time-out")})
        assert_same_end(scenario, f"time-out after write {index}", play(scenario, first=having(faults)))


@every_scenario
@pytest.mark.parametrize("seed", range(2))
def test_the_api_server_is_slower_than_the_pods(scenario: Scenario, seed: int) -> None:
    result = play(scenario, first=with_latency(seed))
    most = 2 * len(reference(scenario).writes)
    assert_same_end(scenario, f"slow, seed {seed}", result, most, most)


@every_scenario
@pytest.mark.parametrize("seed", range(4))
def test_f10_two_operators_at_once(scenario: Scenario, seed: int) -> None:
    result = play(scenario, first=with_pauses(seed), replicas=2)
    most = 2 * len(reference(scenario).writes)
    assert_same_end(scenario, f"two operators, seed {seed}", result, most, most)
