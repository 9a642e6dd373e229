"""Two replicas and one Lease, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from finetune_operator.kube import KubeClient
from finetune_operator.leader import Election
from finetune_operator.ports import (
    FINETUNEJOBS,
    GPUCLASSES,
    LEASES,
    NODES,
    AlreadyExists,
    Conflict,
    Json,
    NotFound,
    Resource,
    Retryable,
)
from tests.builders.jobs import NAMESPACE, make_class, make_job, make_node
from tests.fakes.clock import LoopClock
from tests.fakes.http import FakeApiClient
from tests.fakes.kubernetes import FakeCluster, FakeKubeApi
from tests.fakes.operator import FakeOperator, key_of_job
from tests.fakes.simulation import TICK_SECONDS, Simulation
from tests.fakes.virtualtime import VirtualLoop, run


class LeaseServer:
    """The API server as far as a Lease goes; may be away, or silent."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.is_away: set[str] = set()
        self.is_silent: set[str] = set()
        self.writes = 0

    def for_replica(self, name: str) -> Any:
        return _Connection(self, name)


class _Connection:
    def __init__(self, server: LeaseServer, name: str) -> None:
        self.server, self.name = server, name

    async def _reach(self) -> None:
        await asyncio.sleep(0.01)
        if self.name in self.server.is_silent:
            await asyncio.sleep(3600)
        if self.name in self.server.is_away:
            raise Retryable("connection refused")

    async def get(self, *_: Any) -> Json:
        await self._reach()
        if self.server.lease is None:
            raise NotFound("no lease")
        return self.server.lease

    async def create(self, _: Any, __: str, body: Json) -> Json:
        await self._reach()
        if self.server.lease is not None:
            raise AlreadyExists("there")
        return self._store(body)

    async def replace(self, resource: Any, body: Json) -> Json:
        assert resource == LEASES
        await self._reach()
        assert self.server.lease is not None
        if body["metadata"]["resourceVersion"] != self.server.lease["metadata"]["resourceVersion"]:
            raise Conflict("moved")
        return self._store(body)

    def _store(self, body: Json) -> Json:
        self.server.writes += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.server.writes)}
        self.server.lease = {**body, "metadata": metadata}
        return self.server.lease


def election(server: LeaseServer, name: str) -> Election:
    return Election(server.for_replica(name), LoopClock(), namespace="system", identity=name)


def holder(server: LeaseServer) -> str:
    assert server.lease is not None
    return str(server.lease["spec"]["holderIdentity"])


def now() -> float:
    return asyncio.get_running_loop().time()


def test_one_of_two_leads_and_the_other_waits() -> None:
    async def main() -> None:
        server = LeaseServer()
        a, b = election(server, "a"), election(server, "b")
        await a.acquire()
        leading, waiting = asyncio.create_task(a.lead()), asyncio.create_task(b.acquire())
        await asyncio.sleep(600)
        assert holder(server) == "a"
        assert a.is_certain
        assert not b.is_certain
        assert not waiting.done()
        leading.cancel()
        waiting.cancel()

    run(main())


def test_a_leader_without_the_api_server_gives_up_before_another_may_take_over() -> None:
    async def main() -> None:
        server = LeaseServer()
        a, b = election(server, "a"), election(server, "b")
        await a.acquire()
        leading, waiting = asyncio.create_task(a.lead()), asyncio.create_task(b.acquire())
        await asyncio.sleep(20)
        server.is_away.add("a")
        cut_off = now()
        await leading
        assert 8 <= now() - cut_off <= 12
        assert not a.is_certain
        assert not waiting.done()
        await waiting
        assert 13 <= now() - cut_off <= 20
        assert holder(server) == "b"
        assert server.lease["spec"]["leaseTransitions"] == 1  # type: ignore[index]

    run(main())


def test_a_silent_api_server_counts_as_unreachable() -> None:
    async def main() -> float:
        server = LeaseServer()
        a = election(server, "a")
        await a.acquire()
        server.is_silent.add("a")
        started = now()
        await a.lead()
        return now() - started

    assert run(main()) <= 12


def test_a_short_outage_is_survived() -> None:
    async def main() -> None:
        server = LeaseServer()
        a = election(server, "a")
        await a.acquire()
        leading = asyncio.create_task(a.lead())
        server.is_away.add("a")
        await asyncio.sleep(6)
        server.is_away.clear()
        await asyncio.sleep(60)
        assert not leading.done()
        assert a.is_certain
        leading.cancel()

    run(main())


def test_a_released_lease_is_taken_at_once() -> None:
    async def main() -> float:
        server = LeaseServer()
        a, b = election(server, "a"), election(server, "b")
        await a.acquire()
        waiting = asyncio.create_task(b.acquire())
        await asyncio.sleep(5)
        await a.release()
        released = now()
        await waiting
        return now() - released

    assert run(main()) <= 2.5


def test_leadership_is_reported() -> None:
    async def main() -> list[bool]:
        server, reported = LeaseServer(), []
        a = Election(server.for_replica("a"), LoopClock(), namespace="s", identity="a", on_change=reported.append)
        await a.acquire()
        server.is_away.add("a")
        await a.lead()
        return reported

    assert run(main()) == [True, False]


def test_two_that_start_together_do_not_both_lead() -> None:
    async def main() -> list[bool]:
        server = LeaseServer()
        both = [election(server, name) for name in "ab"]
        tasks = [asyncio.create_task(each.acquire()) for each in both]
        await asyncio.sleep(5)
        certain = [each.is_certain for each in both]
        for task in tasks:
            task.cancel()
        return certain

    assert sorted(run(main())) == [False, True]


# --- a leader that was paused --------------------------------------------------------------------------------
class Process:
    """A replica with an event loop of its own, so that it can stand still while the rest moves, as after SIGSTOP.

    Args:
        pause_at: stops after so many answers to reads, in the middle of the reconcile that asked.
    """

    def __init__(self, cluster: FakeCluster, name: str, pause_at: int | None = None) -> None:
        self._cluster = cluster
        self._name = name
        self._pause_at = pause_at
        self._reads = 0
        self.is_paused = False
        self.loop = VirtualLoop()
        self.writes: Callable[[], list[tuple[float, Resource, str]]] = list
        self._life = self.loop.create_task(self._live())

    async def _live(self) -> None:
        """As __main__: lead, fence, work; the end of the leadership is the end of the process."""
        operator = FakeOperator(self._cluster, client=self._client)
        self.writes = lambda: [(each.at, each.resource, each.name) for each in operator.connection.writes]
        client = cast(KubeClient, operator.api)
        election = Election(client, LoopClock(), namespace="system", identity=self._name)
        await election.acquire()
        client.fence(lambda: election.is_certain)
        working = asyncio.create_task(operator.run())
        await election.lead()
        working.cancel()

    def _client(self, connection: FakeKubeApi) -> KubeClient:
        return KubeClient(cast(Any, FakeApiClient(connection, self._on_answer)), lambda verb, resource, code: None)

    def _on_answer(self, method: str, resource: Resource) -> None:
        if method == "GET" and resource != LEASES:
            self._reads += 1
            if self._reads == self._pause_at:
                self.is_paused = True
                self.loop.stop()

    def run(self, seconds: float) -> None:
        if self.is_paused:
            self.loop.skip(seconds)
            return
        until = self.loop.call_later(seconds, self.loop.stop)
        before = self.loop.time()
        self.loop.run_forever()
        until.cancel()
        if self.is_paused:
            self.loop.skip(seconds - (self.loop.time() - before))

    def resume(self) -> float:
        self.is_paused = False
        return self.loop.time()

    @property
    def has_ended(self) -> bool:
        return self._life.done()

    def close(self) -> None:
        if not self.has_ended:
            self._life.cancel()
        self.loop.run_until_complete(asyncio.gather(self._life, return_exceptions=True))
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        self.loop.close()


class TwoReplicas:
    """A job, a leader that pauses in the middle of a reconcile, and a stand-by."""

    def __init__(self, pause_at: int) -> None:
        clock = LoopClock()
        self.cluster = FakeCluster(clock)
        self.simulation = Simulation(self.cluster, clock, key_of_job(NAMESPACE, "faq"))
        self.first = Process(self.cluster, "first", pause_at)
        self.first.loop.run_until_complete(self._set_up())
        self.second = Process(self.cluster, "second")

    async def _set_up(self) -> None:
        self.cluster.create(GPUCLASSES, None, make_class("cpu"))
        self.cluster.create(NODES, None, make_node("node-1"))
        self.cluster.create(FINETUNEJOBS, NAMESPACE, make_job().bare())

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.first.run(TICK_SECONDS)
            self.second.run(TICK_SECONDS)
            self.second.loop.run_until_complete(self._tick())

    async def _tick(self) -> None:
        self.simulation.tick()

    def writes_after_the_pause(self) -> list[tuple[Resource, str]] | None:
        """Of the first leader, Leases apart; None when it never came to its pause."""
        try:
            self.run(ticks=30)
            if not self.first.is_paused:
                return None
            assert self.cluster.get(LEASES, "system", "finetune-operator")["spec"]["holderIdentity"] == "second"
            resumed = self.first.resume()
            self.run(ticks=3)
            assert self.first.has_ended
            assert self.simulation.status()["phase"] == "Succeeded"
            return [(res, name) for at, res, name in self.first.writes() if at >= resumed and res != LEASES]
        finally:
            self.first.close()
            self.second.close()


def _writes_of_every_pause() -> list[tuple[Resource, str]]:
    """After a pause at each read of a job's whole life."""
    written: list[tuple[Resource, str]] = []
    for pause_at in range(6, 60):  # the first five are the lists of its start
        found = TwoReplicas(pause_at).writes_after_the_pause()
        if found is None:
            assert pause_at > 8, "the leader reads before it acts"
            return written
        written += found
    raise AssertionError("the leader reads without end")


def test_a_leader_that_was_paused_past_its_lease_writes_nothing_when_it_wakes() -> None:
    assert _writes_of_every_pause() == []


def test_without_the_fence_a_woken_leader_would_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KubeClient, "fence", lambda self, may_write: None)
    assert _writes_of_every_pause() != []
