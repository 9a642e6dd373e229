"""Plays a scenario on the fake cluster in virtual time, with or without faults, and returns what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, JOBS, NODES, PODS, SERVICES, Json
from tests.builders.jobs import NAMESPACE, JobBuilder, make_class, make_job, make_node
from tests.fakes import virtualtime
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import Crash, FakeCluster, Write
from tests.fakes.operator import FakeOperator, key_of_job
from tests.fakes.simulation import TICK_SECONDS, Act, Fate, Simulation

KEY = key_of_job(NAMESPACE, "faq")
QUIET_SECONDS = 80.0
"""Nothing has changed for so long: the scenario is over. Longer than any wait at rest between two ticks."""
_MOST_TICKS = 150


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
    simulation: Simulation
    operators: list[FakeOperator] = field(default_factory=list)
    """All processes that ever ran; a crash begins a new one."""

    @property
    def cluster(self) -> FakeCluster:
        return self.simulation.cluster

    @property
    def writes(self) -> list[Write]:
        return [write for operator in self.operators for write in operator.connection.writes]

    @property
    def refused(self) -> int:
        return sum(operator.connection.refused for operator in self.operators)

    @property
    def seconds(self) -> float:
        """Virtual time from the first write to the last."""
        return self.writes[-1].at - self.writes[0].at

    def ending(self, *, without_evidence: bool = False) -> Json:
        """What has to be the same with and without faults: no times, no uids. `stops` may be one higher: the record of
        a checkpoint that nobody saw before its pod was gone.

        Args:
            without_evidence: a disruption is only that, as for an operator that never saw the pod.
        """
        status = self.simulation.status()
        conditions = {c["type"]: (c["status"], c["reason"], c["message"]) for c in status.get("conditions") or ()}
        kept = {name: status.get(name) for name in ("phase", "run", "attempt", "prepareAttempt", "failures")}
        kept |= {name: status.get(name) for name in ("runHash", "restartedAt", "artifact", "evaluation", "prepared")}
        history = [
            (
                e["run"],
                e["role"],
                e["attempt"],
                _general(e["reason"]) if without_evidence else e["reason"],
                e["counted"],
            )
            for e in status.get("history") or ()
        ]
        children = {
            resource.plural: sorted(obj["metadata"]["name"] for obj in self.cluster.items(resource))
            for resource in (JOBS, SERVICES)
        }
        alive = [
            pod["metadata"]["name"]
            for pod in self.cluster.items(PODS)
            if pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
        ]
        classes = {obj["metadata"]["name"]: obj.get("status") for obj in self.cluster.items(GPUCLASSES)}
        return {
            **kept,
            "conditions": conditions,
            "history": history,
            "children": children,
            "alive": alive,
            "classes": classes,
        }


def _general(reason: str) -> str:
    """What the Job's condition still says when the pod is gone."""
    return "Disrupted" if reason == "Evicted" else reason


Start = Callable[[FakeCluster], FakeOperator]


def start(cluster: FakeCluster) -> FakeOperator:
    """A new process with empty memory, on a cluster that answers."""
    return FakeOperator(cluster)


def play(
    scenario: Scenario,
    first: Start = start,
    after_crash: Start = start,
    replicas: int = 1,
    quiet_seconds: float = QUIET_SECONDS,
    script: Callable[[Play], Any] | None = None,
) -> Play:
    """Until nothing has changed for a while.

    Args:
        first: makes the process (each of the replicas) that runs from the beginning.
        after_crash: makes the one that follows it.
        quiet_seconds: longer than the interval of resyncs, where these have something to repair.
        script: a coroutine function that runs beside the play.
    """
    return virtualtime.run(_play(scenario, first, after_crash, replicas, quiet_seconds, script))


async def _play(
    scenario: Scenario,
    first: Start,
    after_crash: Start,
    replicas: int,
    quiet_seconds: float,
    script: Callable[[Play], Any] | None,
) -> Play:
    clock = LoopClock()
    cluster = FakeCluster(clock)
    cluster.create(GPUCLASSES, None, make_class("cpu"))
    for index in range(3):
        cluster.create(NODES, None, make_node(f"node-{index}"))
    cluster.create(FINETUNEJOBS, NAMESPACE, scenario.job().bare())
    result = Play(scenario, Simulation(cluster, clock, KEY, scenario.fates, list(scenario.acts())))
    tasks = [asyncio.create_task(_live(result, first, after_crash)) for _ in range(replicas)]
    scripts = [] if script is None else [asyncio.create_task(script(result))]
    tasks += scripts
    try:
        await _until_quiet(result, tasks, scripts, quiet_seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return result


async def _live(result: Play, first: Start, after_crash: Start) -> None:
    """A process, and after each crash the next one."""
    begin = first
    while True:
        operator = begin(result.cluster)
        result.operators.append(operator)
        try:
            await operator.run()
        except Crash:
            begin = after_crash


async def _until_quiet(
    result: Play, tasks: Sequence[asyncio.Task[Any]], scripts: Sequence[asyncio.Task[Any]], quiet_seconds: float
) -> None:
    quiet = 0.0
    for _ in range(_MOST_TICKS):
        before = len(result.cluster.history)
        await asyncio.sleep(TICK_SECONDS)
        result.simulation.tick()
        _raise_bugs(result, tasks)
        is_over = not result.simulation.acts and all(each.done() for each in scripts)
        is_quiet = len(result.cluster.history) == before
        quiet = quiet + TICK_SECONDS if is_over and is_quiet else 0.0
        if quiet > quiet_seconds:
            return
    raise AssertionError(f"{result.scenario.name} does not end: {result.simulation.status()}")


def _raise_bugs(result: Play, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """What a real process would only log."""
    for operator in result.operators:
        for bug in operator.bugs:
            raise AssertionError(f"{result.scenario.name}: the reconciler raised {bug!r}") from bug
    for task in tasks:
        if task.done():
            task.result()
