"""Plays a scenario on the fake cluster, with or without faults, and hands out what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, JOBS, NODES, PODS, SERVICES, Json
from tests.builders.jobs import NAMESPACE, JobBuilder, make_class, make_job, make_node
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import Crash, FakeCluster, Write
from tests.fakes.operator import FakeOperator
from tests.fakes.world import Act, Fate, World

KEY = FINETUNEJOBS.key(NAMESPACE, "faq")
_MOST_TICKS = 150
_QUIET_TICKS = 8
"""Nothing has changed for so long: the scenario is over. Longer than any wait at rest between two ticks."""


@dataclass(frozen=True)
class Scenario:
    name: str
    want_phase: str
    """`gone` when the object is deleted in the end."""
    job: Callable[[], JobBuilder] = make_job
    fates: Mapping[str, Fate] = field(default_factory=dict)
    acts: Callable[[], Sequence[Act]] = tuple
    want: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the terminal status."""


@dataclass
class Play:
    """One performance of a scenario."""

    scenario: Scenario
    world: World
    operators: list[FakeOperator]
    """All processes that ever ran; a crash begins a new one."""

    @property
    def cluster(self) -> FakeCluster:
        return self.world.cluster

    @property
    def writes(self) -> list[Write]:
        return [write for operator in self.operators for write in operator.api.writes]

    @property
    def events(self) -> int:
        return sum(len(operator.events.posted) for operator in self.operators)

    def ending(self) -> Json:
        """What has to be the same with and without faults: no times, no uids. `stops` may be one higher: the record of
        a checkpoint that nobody saw before its pod was gone."""
        status = self.world.status()
        conditions = {c["type"]: (c["status"], c["reason"], c["message"]) for c in status.get("conditions") or ()}
        kept = {name: status.get(name) for name in ("phase", "run", "attempt", "prepareAttempt", "failures")}
        kept |= {name: status.get(name) for name in ("runHash", "restartedAt", "artifact", "evaluation", "prepared")}
        history = [(e["run"], e["role"], e["attempt"], e["reason"], e["counted"]) for e in status.get("history") or ()]
        children = {
            resource.plural: sorted(obj["metadata"]["name"] for obj in self.cluster.items(resource))
            for resource in (JOBS, SERVICES)
        }
        alive = [
            pod["metadata"]["name"]
            for pod in self.cluster.items(PODS)
            if pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
        ]
        return {**kept, "conditions": conditions, "history": history, "children": children, "alive": alive}


Start = Callable[[FakeCluster, FakeClock], FakeOperator]


def start(cluster: FakeCluster, clock: FakeClock) -> FakeOperator:
    """A new process with empty memory, on a cluster that answers."""
    return FakeOperator(cluster, clock)


async def play(scenario: Scenario, first: Start = start, after_crash: Start = start, replicas: int = 1) -> Play:
    """Until nothing has changed for a while.

    Args:
        first: makes the process (each of the replicas) that runs from the beginning.
        after_crash: makes the one that follows it.
    """
    clock = FakeClock()
    cluster = FakeCluster(clock)
    world = World(cluster, clock, KEY, scenario.fates, list(scenario.acts()))
    cluster.create(GPUCLASSES, None, make_class("cpu"))
    for index in range(3):
        cluster.create(NODES, None, make_node(f"node-{index}"))
    cluster.create(FINETUNEJOBS, NAMESPACE, scenario.job().bare())

    running = [first(cluster, clock) for _ in range(replicas)]
    result = Play(scenario, world, list(running))
    quiet = 0
    for _ in range(_MOST_TICKS):
        before = len(cluster.history)
        running = await asyncio.gather(*(_survive(operator, result, after_crash) for operator in running))
        world.tick()
        quiet = quiet + 1 if len(cluster.history) == before else 0
        if quiet > _QUIET_TICKS and not world.acts:
            return result
    raise AssertionError(f"{scenario.name} does not end: {world.status()}")


async def _survive(operator: FakeOperator, result: Play, after_crash: Start) -> FakeOperator:
    """The process that is there afterwards."""
    try:
        await operator.settle(KEY)
        return operator
    except Crash:
        successor = after_crash(result.cluster, result.world.clock)
        result.operators.append(successor)
        await successor.settle(KEY)
        return successor
