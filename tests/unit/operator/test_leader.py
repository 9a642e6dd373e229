"""Two replicas and one Lease, in virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from finetune_operator.leader import Election
from finetune_operator.ports import LEASES, AlreadyExists, Conflict, Json, NotFound, Retryable
from tests.fakes.virtualtime import run


class Clock:
    def now(self) -> datetime:
        return datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)


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
    return Election(server.for_replica(name), Clock(), namespace="system", identity=name)


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


def test_a_silent_api_server_is_as_good_as_none() -> None:
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


def test_leadership_is_told() -> None:
    async def main() -> list[bool]:
        server, told = LeaseServer(), []
        a = Election(server.for_replica("a"), Clock(), namespace="s", identity="a", on_change=told.append)
        await a.acquire()
        server.is_away.add("a")
        await a.lead()
        return told

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
