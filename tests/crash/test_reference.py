"""Every scenario without a fault: it ends as it should, keeps the promises, and stays within its budget of writes."""

import json

import pytest

from tests.crash.harness import Scenario, play
from tests.crash.invariants import check_all
from tests.crash.scenarios import SCENARIOS

BUDGET = {"one attempt succeeds": 12}
"""API writes of the whole life, events included."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_scenario_ends_as_it_should(scenario: Scenario, record_property) -> None:
    result = await play(scenario)
    status = result.world.status()
    assert (status.get("phase") or "gone") == scenario.want_phase, json.dumps(status, indent=1)
    assert {name: status.get(name) for name in scenario.want} == scenario.want
    check_all(result)
    print(f"{scenario.name}: {len(result.writes)} writes, {result.events} events")
