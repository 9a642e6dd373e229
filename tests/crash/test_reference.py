"""Every scenario without a fault: it ends as it should, keeps the promises, and stays within its budget of writes."""

import json
from typing import NamedTuple

import pytest

from tests.crash.harness import Play, Scenario, play
from tests.crash.invariants import check_all
from tests.crash.scenarios import SCENARIOS


class Budget(NamedTuple):
    """API writes of a whole life; progress and Leases do not count."""

    creates: int
    """Of Jobs and Services."""
    deletes: int
    statuses: int
    """Of the FineTuneJob, and one or two of the GPUClass whose nodes it runs on."""
    events: int


BUDGETS = {
    "one attempt succeeds": Budget(creates=2, deletes=0, statuses=7, events=2),
    "a transient failure is tried again": Budget(creates=3, deletes=0, statuses=10, events=3),
    "failing storage exhausts the retries": Budget(creates=3, deletes=0, statuses=10, events=3),
    "bad data is final before any training": Budget(creates=1, deletes=0, statuses=4, events=1),
    "running out of accelerator memory is final": Budget(creates=2, deletes=0, statuses=7, events=2),
    "a pod over its memory limit is tried again": Budget(creates=3, deletes=0, statuses=10, events=3),
    "a drain is not counted": Budget(creates=3, deletes=0, statuses=10, events=3),
    "a lost node is not waited for": Budget(creates=3, deletes=0, statuses=10, events=3),
    "suspended during training and resumed": Budget(creates=3, deletes=1, statuses=11, events=3),
    "suspended during preparation and resumed": Budget(creates=3, deletes=1, statuses=10, events=3),
    "a changed spec starts a new run during training": Budget(creates=4, deletes=2, statuses=13, events=3),
    "a changed spec starts a new run after success": Budget(creates=4, deletes=2, statuses=13, events=4),
    "a restart is requested after a failure": Budget(creates=3, deletes=1, statuses=10, events=3),
    "the Job is deleted by hand": Budget(creates=3, deletes=0, statuses=10, events=3),
    "the object is deleted during training": Budget(creates=2, deletes=0, statuses=6, events=1),
    "two nodes": Budget(creates=3, deletes=0, statuses=7, events=2),
    "one of two nodes is drained": Budget(creates=5, deletes=0, statuses=10, events=3),
}
"""What each scenario costs, exactly: a smaller number is written here as well."""


def spent(result: Play) -> Budget:
    verbs = [write.verb for write in result.writes]
    assert "replace" not in verbs, "nothing but statuses is ever replaced"
    events = sum(len(operator.events.posted) for operator in result.operators)
    return Budget(verbs.count("create"), verbs.count("delete"), verbs.count("replace_status"), events)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_ends_as_it_should_within_its_budget(scenario: Scenario) -> None:
    result = play(scenario)
    status = result.simulation.status()
    assert (status.get("phase") or "gone") == scenario.want_phase, json.dumps(status, indent=1)
    assert {name: status.get(name) for name in scenario.want} == scenario.want
    check_all(result)
    assert spent(result) == BUDGETS[scenario.name], [(write.verb, write.name) for write in result.writes]
