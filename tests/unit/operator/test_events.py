"""Events are few, counted, and nobody's problem."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.events import KubeEvents
from finetune_operator.ports import EVENTS, Event, Json, NotFound, Retryable
from tests.fakes.virtualtime import run

JOB: Json = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"namespace": "ns", "name": "faq", "uid": "u", "resourceVersion": "7"},
    "status": {"run": 2, "attempt": 3},
}
PREPARED = Event("Normal", "Prepared", "900 rows")


class Clock:
    def now(self) -> datetime:
        return datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)


class EventServer:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.created: list[Json] = []
        self.replaced: list[Json] = []

    async def create(self, resource: Any, namespace: str, body: Json) -> Json:
        assert resource == EVENTS
        assert namespace == "ns"
        if self.error:
            raise self.error
        self.created.append(body)
        return {**body, "metadata": {**body["metadata"], "name": f"faq.{len(self.created)}", "resourceVersion": "1"}}

    async def replace(self, _: Any, body: Json) -> Json:
        if self.error:
            raise self.error
        self.replaced.append(body)
        return body


def posted(server: EventServer, *events: tuple[float, Event]) -> None:
    async def main() -> None:
        sink = KubeEvents(server, Clock(), instance="pod")  # type: ignore[arg-type]
        sending = asyncio.create_task(sink.run())
        for pause, event in events:
            await asyncio.sleep(pause)
            await sink.post(JOB, event)
        await asyncio.sleep(1)
        assert not sending.done()
        sending.cancel()

    run(main())


def test_an_event_says_who_what_and_since_when() -> None:
    server = EventServer()
    posted(server, (0, PREPARED))
    [event] = server.created
    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Prepared", "900 rows")
    assert event["reportingInstance"] == "pod"
    assert event["metadata"] == {"generateName": "faq.", "namespace": "ns"}


def test_a_repetition_is_counted_on_the_event_that_is_there() -> None:
    server = EventServer()
    posted(server, (0, PREPARED), (5, PREPARED), (5, PREPARED))
    assert len(server.created) == 1
    assert [event["count"] for event in server.replaced] == [2, 3]
    assert all("resourceVersion" not in event["metadata"] for event in server.replaced)


def test_a_repetition_after_a_long_time_is_a_new_event() -> None:
    server = EventServer()
    posted(server, (0, PREPARED), (3600, PREPARED))
    assert len(server.created) == 2


def test_an_object_has_a_budget() -> None:
    server = EventServer()
    posted(server, *((0, Event("Warning", "Crashed", f"attempt {index}")) for index in range(100)))
    assert len(server.created) == 25
    posted(server, *((0, Event("Warning", "Crashed", f"attempt {index}")) for index in range(30)), (700, PREPARED))
    assert server.created[-1]["reason"] == "Prepared"


@pytest.mark.parametrize("error", [Retryable("503"), NotFound("the namespace is gone")])
def test_an_api_server_that_refuses_is_no_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        posted(EventServer(error), (0, PREPARED), (1, PREPARED))
    assert not caplog.records


def test_a_flood_is_dropped_instead_of_waiting() -> None:
    async def main() -> int:
        server = EventServer()
        sink = KubeEvents(server, Clock(), instance="pod")  # type: ignore[arg-type]
        for index in range(5_000):  # nobody sends
            await sink.post(JOB, Event("Normal", "Flood", str(index)))
        return len(server.created)

    assert run(main()) == 0


def test_a_long_message_is_cut() -> None:
    server = EventServer()
    posted(server, (0, Event("Warning", "Long", "x" * 5_000)))
    assert len(server.created[0]["message"]) == 1024


def test_each_transition_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="finetune_operator"):
        posted(EventServer(), (0, PREPARED))
    assert [record.getMessage() for record in caplog.records] == ["ns/faq run 2 attempt 3: Prepared: 900 rows"]
