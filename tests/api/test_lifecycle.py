"""A FineTuneJob from apply to a published adapter, by a real operator process on a real API server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dev.kit.jobs import condition
from dev.kit.specs import Object
from dev.localcluster.waiting import until
from finetune_contract import names
from finetune_contract.progress import ProgressRecord
from finetune_operator.ports import EVENTS, FINETUNEJOBS, SERVICES
from tests.api.fakekubelet import FakeKubelet
from tests.api.operatorprocess import OperatorProcess
from tests.builders.records import prepared_record, progress_record, trained_record

pytestmark = pytest.mark.races


def test_a_job_is_prepared_trained_and_succeeds(
    kubelet: FakeKubelet, operator: OperatorProcess, figure: Callable[[str, object], None]
) -> None:
    before = operator.writes()

    kubelet.apply("happy")
    kubelet.prepare("happy", prepared_record())
    kubelet.end(kubelet.run("happy", "happy-r1-a1"), 0, trained_record())
    job = kubelet.wait_finished("happy")

    status = job["status"]
    assert status["phase"] == "Succeeded"
    assert status["artifact"]["uri"] == "s3://adapters/faq/faq-r1-uid"
    assert status["prepared"]["trainRows"] == 900
    assert {kind: condition(job, kind)["status"] for kind in ("Accepted", "Planned", "Prepared", "Succeeded")} == {
        "Accepted": "True",
        "Planned": "True",
        "Prepared": "True",
        "Succeeded": "True",
    }
    assert job["metadata"].get("finalizers") is None
    assert not [key for key in job["metadata"].get("annotations") or {} if "kopf" in key]
    assert operator.metric("finetune_operator_attempts_total", reason="Succeeded") >= 2
    figure("API writes of a whole job", dict(operator.writes() - before))


def test_nothing_is_written_about_a_job_at_rest(kubelet: FakeKubelet, operator: OperatorProcess) -> None:
    kubelet.apply("rest")
    kubelet.prepare("rest", prepared_record())
    kubelet.end(kubelet.run("rest", "rest-r1-a1"), 0, trained_record())
    before = kubelet.wait_finished("rest")
    reconciles = operator.metric("finetune_operator_reconcile_duration_seconds_count")

    kubelet.annotate("rest", note="an event that concerns nobody")
    count = "finetune_operator_reconcile_duration_seconds_count"
    until("it is looked at", lambda: operator.metric(count) > reconciles)

    after = kubelet.get("rest")
    assert after["status"] == before["status"]
    written = [entry["time"] for entry in after["metadata"]["managedFields"] if entry.get("subresource") == "status"]
    assert written == [e["time"] for e in before["metadata"]["managedFields"] if e.get("subresource") == "status"]


def test_two_nodes_get_a_service_and_a_pod_each(kubelet: FakeKubelet) -> None:
    kubelet.apply("wide", resources__nodes=2)
    kubelet.prepare("wide", prepared_record())
    pods = kubelet.run("wide", "wide-r1-a1", count=2)

    service = kubelet.api.get(SERVICES, kubelet.namespace, "wide-r1")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert {pod["spec"]["hostname"] for pod in pods} == {"wide-r1-a1-0", "wide-r1-a1-1"}
    assert {pod["spec"]["subdomain"] for pod in pods} == {"wide-r1"}

    kubelet.end(pods, 0, trained_record())
    kubelet.wait_finished("wide")


def test_progress_of_rank_0_reaches_the_status(kubelet: FakeKubelet) -> None:
    with progress_server("127.0.0.77", progress_record(step=40, eta_seconds=9)) as show:
        kubelet.apply("live")
        kubelet.prepare("live", prepared_record())
        pods = kubelet.run("live", "live-r1-a1", address="127.0.0.77")
        job = kubelet.wait("live", "shown", lambda job: job["status"].get("progress", {}).get("step") == 40)
        assert job["status"]["phase"] == "Training"
        assert job["status"]["progress"]["totalSteps"] == 100

        show(progress_record(step=60, eta_seconds=6))
        kubelet.wait("live", "shown", lambda job: job["status"].get("progress", {}).get("step") == 60)
    kubelet.end(pods, 0, trained_record())
    kubelet.wait_finished("live")


def test_transitions_are_told_as_events_and_in_the_log(kubelet: FakeKubelet, operator: OperatorProcess) -> None:
    kubelet.apply("told")
    kubelet.prepare("told", prepared_record())
    kubelet.end(kubelet.run("told", "told-r1-a1"), 0, trained_record())
    kubelet.wait_finished("told")

    def events() -> list[Object] | None:
        found = [event for event in kubelet.api.list(EVENTS, kubelet.namespace) if _is_about(event, "told")]
        return found if any(event["reason"] == "Succeeded" for event in found) else None

    found = until("the events are posted", events, seconds=300, explain=lambda: kubelet.explain("told"))
    assert {event["reportingComponent"] for event in found} == {"finetune-operator"}
    assert len(found) == len({(event["reason"], event["message"]) for event in found})
    assert f"{kubelet.namespace}/told run 1 attempt 1: Succeeded: " in operator.log()


def test_children_carry_labels_and_owner_and_nothing_of_the_parents(kubelet: FakeKubelet) -> None:
    kubelet.apply("kin")
    kubelet.api.patch(
        FINETUNEJOBS, kubelet.namespace, "kin", {"metadata": {"labels": {"app.kubernetes.io/instance": "argo"}}}
    )
    job = kubelet.job("kin", "kin-r1-p1")
    assert job["metadata"]["labels"][names.LABEL_MANAGED_BY] == names.MANAGED_BY
    assert "app.kubernetes.io/instance" not in job["metadata"]["labels"]
    [owner] = job["metadata"]["ownerReferences"]
    assert owner["uid"] == kubelet.get("kin")["metadata"]["uid"]


def _is_about(event: Object, name: str) -> bool:
    return bool(event["involvedObject"]["kind"] == "FineTuneJob" and event["involvedObject"]["name"] == name)


@contextmanager
def progress_server(address: str, first: ProgressRecord) -> Iterator[Callable[[ProgressRecord], None]]:
    """What rank 0 serves, at the address that the test writes into the pod's status."""
    shown = [first]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = shown[0].model_dump_json(by_alias=True).encode() if self.path == "/progress" else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, names.PORT_METRICS), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield lambda record: shown.__setitem__(0, record)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
