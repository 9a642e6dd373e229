"""Progress is pulled from real HTTP servers, which may be slow, huge, wrong or hostile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from finetune_contract import names
from finetune_contract.progress import ProgressRecord
from finetune_operator import polling as progress
from finetune_operator.polling import MAX_BYTES, Fetch, ProgressPoller, fetch_from, targets
from finetune_operator.ports import FINETUNEJOBS, PODS, Change, Json, Key
from tests.builders.records import progress_record
from tests.fakes.virtualtime import run

KEY = FINETUNEJOBS.key("ns", "faq")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def a_pod(uid: str = "p", attempt: int = 1, *, index: str = "0", role: str = "train", phase: str = "Running") -> Json:
    labels = {
        names.LABEL_JOB_NAME: "faq",
        names.LABEL_ROLE: role,
        names.LABEL_RUN: "1",
        names.LABEL_ATTEMPT: str(attempt),
        "batch.kubernetes.io/job-completion-index": index,
    }
    metadata = {"namespace": "ns", "name": uid, "uid": uid, "labels": labels}
    return {"metadata": metadata, "status": {"phase": phase, "podIP": "10.0.0.1"}}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is late because the machine is busy is awaited."""
    monkeypatch.setattr(progress, "TIMEOUT_SECONDS", 300)


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[Fetch]:
    app = web.Application()
    app.router.add_get("/progress", handler)
    app.router.add_get("/elsewhere", _good)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield fetch_from(session, port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _good(_: web.Request) -> web.Response:
    return web.Response(text=progress_record(step=40).model_dump_json(by_alias=True))


async def _newer(_: web.Request) -> web.Response:
    return web.Response(text='{"run": 1, "attempt": 1, "stage": "training", "fromTheFuture": {"a": [1]}}')


@pytest.mark.races
@pytest.mark.usefixtures("patient")
async def test_a_record_is_read() -> None:
    async with served(_good) as fetch:
        assert await fetch("127.0.0.1") == progress_record(step=40)


@pytest.mark.races
@pytest.mark.usefixtures("patient")
async def test_a_newer_trainer_may_say_more() -> None:
    async with served(_newer) as fetch:
        record = await fetch("127.0.0.1")
        assert record is not None
        assert record.activity == "training"


async def _redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


async def _huge(_: web.Request) -> web.Response:
    return web.Response(body=b'{"x":"' + b"x" * MAX_BYTES + b'"}')


async def _not_json(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def _another_thing(_: web.Request) -> web.Response:
    return web.Response(text='{"stage": "on fire"}')


async def _broken(_: web.Request) -> web.Response:
    raise web.HTTPInternalServerError


async def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("handler", [_redirect, _huge, _not_json, _another_thing, _broken, _hang_up])
async def test_what_is_not_a_record_is_nothing(handler: Handler) -> None:
    async with served(handler) as fetch:
        assert await fetch("127.0.0.1") is None


@pytest.mark.races
async def test_a_slow_pod_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TIMEOUT_SECONDS", 0.05)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)
        return response

    async with served(drip) as fetch:
        assert await fetch("127.0.0.1") is None


async def test_nobody_listens() -> None:
    async with aiohttp.ClientSession() as session:
        assert await fetch_from(session, port=1)("127.0.0.1") is None


def test_only_rank_0_of_a_running_stage_is_asked() -> None:
    terminating = a_pod("t")
    terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [a_pod("p"), a_pod("1", index="1"), a_pod("c", role="prepare"), a_pod("w", phase="Pending"), terminating]
    assert [target.uid for target in targets(pods)] == ["p", "c"]


def polled(
    answers: Callable[[float], ProgressRecord | None], seconds: float, interval: float = 30
) -> tuple[list[float], list[Key], ProgressPoller]:
    """When the pod was asked, and which changes were told."""
    asked: list[float] = []
    told: list[Key] = []

    async def main() -> ProgressPoller:
        started = asyncio.get_running_loop().time()

        async def fetch(_: str) -> ProgressRecord | None:
            asked.append(round(asyncio.get_running_loop().time() - started))
            return answers(asked[-1])

        poller = ProgressPoller(lambda: [a_pod()], fetch, interval_seconds=interval, on_change=told.append)
        task = asyncio.create_task(poller.run())
        await asyncio.sleep(seconds)
        task.cancel()
        return poller

    return asked, told, run(main())


def test_it_asks_at_the_interval_and_tells_changes_only() -> None:
    asked, told, poller = polled(lambda at: progress_record(step=int(at // 60), eta_seconds=10), 100)
    assert asked == [0, 30, 60, 90]
    assert told == [KEY, KEY]
    assert poller.latest(KEY, 1, 1) == progress_record(step=1, eta_seconds=10)


def test_a_long_run_is_asked_every_fiftieth_of_its_length_at_most() -> None:
    asked, _, _ = polled(lambda at: progress_record(step=50, eta_seconds=1_800), 150)
    assert asked == [0, 72, 144]


def test_a_very_long_run_is_asked_every_five_minutes() -> None:
    asked, _, _ = polled(lambda at: progress_record(step=1, eta_seconds=900_000), 700)
    assert asked == [0, 300, 600]


def test_a_record_of_another_attempt_is_not_shown() -> None:
    _, told, poller = polled(lambda at: progress_record(attempt=2), 10)
    assert told == []
    assert poller.latest(KEY, 1, 2) is None


def test_a_pod_that_says_nothing_is_asked_again() -> None:
    asked, told, _ = polled(lambda at: None, 70)
    assert asked == [0, 30, 60]
    assert told == []


def test_nothing_is_kept_of_a_job_that_is_gone() -> None:
    _, _, poller = polled(lambda at: progress_record(step=1), 10)
    job = {"metadata": {"namespace": "ns", "name": "faq"}}
    poller.forget(Change(PODS, a_pod(), None))
    poller.forget(Change(FINETUNEJOBS, job, job))
    assert poller.latest(KEY, 1, 1) is not None
    poller.forget(Change(FINETUNEJOBS, job, None))
    assert poller.latest(KEY, 1, 1) is None
