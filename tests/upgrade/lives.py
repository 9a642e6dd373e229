"""FineTuneJobs in each phase of their life, cut where an upgrade comes.

Each generator brings a job to its phase under one operator, yields, and takes it to its end under another one. What it
waits for there is the same run, and no attempt more than the job would have needed anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from finetune_operator.ports import FINETUNEJOBS
from tests.api.fakekubelet import FakeKubelet
from tests.builders.records import failed_record, prepared_record, trained_record

Life = Callable[[FakeKubelet, str], Iterator[None]]


def pending(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    gpu_class = f"{kubelet.name}-later"
    kubelet.apply(name, resources__gpuClass=gpu_class)
    kubelet.wait_reason(name, "GPUClassNotFound")
    yield
    kubelet.add_class(name=gpu_class)
    kubelet.prepare(name, prepared_record())
    _train(kubelet, name, attempt=1)


def preparing(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    pods = kubelet.run(name, f"{name}-r1-p1")
    kubelet.wait(name, "preparing", lambda job: job["status"]["phase"] == "Preparing")
    yield
    kubelet.end(pods, 0, prepared_record())
    _train(kubelet, name, attempt=1)


def training(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    kubelet.prepare(name, prepared_record())
    pods = kubelet.run(name, f"{name}-r1-a1")
    kubelet.wait(name, "training", lambda job: job["status"]["phase"] == "Training")
    yield
    kubelet.end(pods, 0, trained_record())
    kubelet.wait_finished(name)


def backing_off(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    kubelet.prepare(name, prepared_record())
    kubelet.end(kubelet.run(name, f"{name}-r1-a1"), 75, failed_record(75, "StorageUnavailable", "503", step=40))
    kubelet.wait_reason(name, "BackingOff")
    _start_next_attempt(kubelet, name, timedelta(minutes=15))  # an upgrade takes longer than the first wait
    yield
    _start_next_attempt(kubelet, name, timedelta(seconds=1))
    _train(kubelet, name, attempt=2)


def suspended(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    kubelet.prepare(name, prepared_record())
    kubelet.run(name, f"{name}-r1-a1")
    kubelet.wait(name, "training", lambda job: job["status"]["phase"] == "Training")
    kubelet.change(name, suspend=True)
    kubelet.wait(name, "suspended", lambda job: job["status"]["phase"] == "Suspended")
    yield
    kubelet.change(name, suspend=False)
    _train(kubelet, name, attempt=2)


def succeeded(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    kubelet.prepare(name, prepared_record())
    _train(kubelet, name, attempt=1)
    yield


def failed(kubelet: FakeKubelet, name: str) -> Iterator[None]:
    kubelet.apply(name)
    record = failed_record(3, "InvalidRow", "faq.jsonl, row 7: no output", role="prepare")
    kubelet.end(kubelet.run(name, f"{name}-r1-p1"), 3, record)
    kubelet.wait_finished(name, "False")
    yield


LIVES: dict[str, Life] = {
    life.__name__.replace("_", "-"): life
    for life in (pending, preparing, training, backing_off, suspended, succeeded, failed)
}


def _train(kubelet: FakeKubelet, name: str, attempt: int) -> None:
    """To success, in this attempt of run 1 and in no other."""
    kubelet.end(kubelet.run(name, f"{name}-r1-a{attempt}"), 0, trained_record(attempt))
    status = kubelet.wait_finished(name)["status"]
    assert (status["run"], status["attempt"]) == (1, attempt), kubelet.explain(name)


def _start_next_attempt(kubelet: FakeKubelet, name: str, wait: timedelta) -> None:
    """The status is where an operator finds when to go on."""
    due = (datetime.now(UTC) + wait).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = {"status": {"nextAttemptTime": due}}
    kubelet.api.patch(FINETUNEJOBS, kubelet.namespace, name, patch, subresource="status")
