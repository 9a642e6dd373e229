"""The reconciler on the in-memory API: what it does with answers that are not the expected ones."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_contract import names
from finetune_operator import cache
from finetune_operator.ports import (
    EVENTS,
    FINETUNEJOBS,
    GPUCLASSES,
    JOBS,
    NODES,
    AlreadyExists,
    Conflict,
    Json,
    Key,
    Retryable,
    Terminal,
)
from finetune_operator.reconciler import Outcome
from tests.builders.jobs import NAMESPACE, JobBuilder, make_class, make_job, make_node
from tests.builders.records import progress_record
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import FakeCluster, Faults, Write
from tests.fakes.operator import FakeOperator, key_of_job
from tests.fakes.simulation import TICK_SECONDS, Fate, Simulation
from tests.fakes.virtualtime import in_virtual_time

KEY = key_of_job(NAMESPACE, "faq")


@dataclass
class Stage:
    """A cluster with one job, one operator, and what moves the rest."""

    job: JobBuilder = field(default_factory=make_job)
    faults: Faults | None = None
    fates: dict[str, Fate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clock = LoopClock()
        self.cluster = FakeCluster(clock)
        self.cluster.create(GPUCLASSES, None, make_class("cpu"))
        self.cluster.create(NODES, None, make_node("node-1"))
        self.raw = self.cluster.create(FINETUNEJOBS, NAMESPACE, self.job.bare())
        self.simulation = Simulation(self.cluster, clock, KEY, self.fates)
        self.operator = FakeOperator(self.cluster, faults=self.faults)
        self.process: asyncio.Task[None] | None = None

    async def run(self, ticks: int = 0) -> Json:
        """The status afterwards, when the operator has come to rest."""
        if self.process is None:
            self.process = asyncio.create_task(self.operator.run())
            await asyncio.sleep(TICK_SECONDS / 2)
        for _ in range(ticks):
            await asyncio.sleep(TICK_SECONDS / 2)
            self.simulation.tick()
            await asyncio.sleep(TICK_SECONDS / 2)
        assert not self.operator.bugs
        return self.simulation.status()

    @property
    def writes(self) -> list[Write]:
        """Without those of the GPUClass."""
        return [write for write in self.operator.connection.writes if write.resource != GPUCLASSES]

    async def reconcile(self, key: Key = KEY) -> Outcome:
        """Once, by hand, on what the cluster shows now."""
        await cache.resync(self.operator.cache, self.operator.api)
        return await self.operator.reconciler.reconcile(key)

    def put_in_the_way(self, *, owner: Json | None, **metadata: Any) -> None:
        """A Job with the name of the first preparation, without our labels: no watch of ours shows it."""
        body = {
            "metadata": {"name": "faq-r1-p1", "ownerReferences": [owner] if owner else [], **metadata},
            "spec": {},
        }
        self.cluster.create(JOBS, NAMESPACE, body)


def summary(status: Json) -> Json:
    return next(condition for condition in status["conditions"] if condition["type"] == "Succeeded")


def stalled(status: Json) -> bool:
    return any(condition["type"] == "Stalled" for condition in status["conditions"])


@in_virtual_time
async def test_an_object_that_is_not_there_is_nothing_to_do() -> None:
    stage = Stage()
    outcome = await stage.reconcile(key_of_job(NAMESPACE, "nobody"))
    assert outcome.requeue_after is None
    assert not stage.writes


@in_virtual_time
async def test_an_object_that_was_deleted_meanwhile_is_nothing_to_do() -> None:
    stage = Stage()
    stage.cluster.delete(FINETUNEJOBS, KEY.namespace, KEY.name)
    assert (await stage.reconcile()).requeue_after is None


@in_virtual_time
async def test_a_conflict_is_looked_at_again() -> None:
    stage = Stage(faults=Faults(error_before={0: Conflict("modified")}))
    assert (await stage.reconcile()).requeue_after == 1.0


@in_virtual_time
async def test_an_error_of_the_server_is_the_queues_to_retry() -> None:
    stage = Stage(faults=Faults(error_before={0: Retryable("429", delay=7.0)}))
    with pytest.raises(Retryable):
        await stage.reconcile()


# --- obstacles -----------------------------------------------------------------------------------------------
@in_virtual_time
async def test_a_refused_child_is_reported_and_tried_again_every_minute() -> None:
    refusals = {("create", JOBS): Terminal("Forbidden", "exceeded quota: team-a")}
    stage = Stage(faults=Faults(answer=lambda verb, resource: refusals.get((verb, resource))))
    refused = summary(await stage.run())
    assert (refused["reason"], refused["status"]) == ("ChildRefused", "Unknown")
    assert "Job faq-r1-p1: Forbidden: exceeded quota: team-a" in refused["message"]
    refusals.clear()
    assert summary(await stage.run(ticks=5))["reason"] == "ChildRefused"
    assert summary(await stage.run(ticks=1))["reason"] == "Preparing"


@pytest.mark.parametrize(
    ("owner", "want"),
    [
        pytest.param(None, "owned by nobody", id="without an owner"),
        pytest.param(
            {"kind": "CronJob", "name": "nightly", "uid": "x", "controller": True},
            "CronJob nightly",
            id="of another owner",
        ),
    ],
)
@in_virtual_time
async def test_a_foreign_child_is_a_conflict_and_never_touched(owner: Json | None, want: str) -> None:
    stage = Stage()
    stage.put_in_the_way(owner=owner)
    status = await stage.run()
    assert summary(status)["reason"] == "Conflict"
    assert want in summary(status)["message"]
    assert stalled(status)
    assert stage.cluster.get(JOBS, NAMESPACE, "faq-r1-p1")["spec"] == {}


@in_virtual_time
async def test_a_conflict_that_is_cleared_is_noticed_within_a_minute() -> None:
    stage = Stage()
    stage.put_in_the_way(owner=None)
    await stage.run()
    stage.cluster.delete(JOBS, NAMESPACE, "faq-r1-p1")
    status = await stage.run(ticks=6)
    assert summary(status)["reason"] == "Preparing"
    assert not stalled(status)


@in_virtual_time
async def test_a_child_of_ours_from_another_configuration_is_a_conflict() -> None:
    stage = Stage()
    owner = {"kind": "FineTuneJob", "name": "faq", "uid": stage.raw["metadata"]["uid"], "controller": True}
    stage.put_in_the_way(owner=owner, annotations={names.ANNOTATION_CONFIG_HASH: "other"})
    assert "made from another configuration" in summary(await stage.run())["message"]


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="the garbage collector is late"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="it is being deleted"),
    ],
)
@in_virtual_time
async def test_a_child_of_a_deleted_namesake_is_waited_for(metadata: Json) -> None:
    stage = Stage()
    owner = {"kind": "FineTuneJob", "name": "faq", "uid": "uid-of-the-previous", "controller": True}
    stage.put_in_the_way(owner=owner, **metadata)
    status = await stage.run()
    assert summary(status)["reason"] == "WaitingForPods"
    assert not stalled(status)
    stage.cluster.delete(JOBS, NAMESPACE, "faq-r1-p1")
    assert summary(await stage.run(ticks=2))["reason"] == "Preparing"


@in_virtual_time
async def test_a_service_that_is_there_already_is_adopted() -> None:
    stage = Stage(job=make_job().on_nodes(2), faults=Faults(error_after={5: Retryable("time-out")}))
    await stage.run(ticks=6)
    verbs = [(write.verb, write.name) for write in stage.writes]
    assert verbs.count(("create", "faq-r1")) == 2
    assert stage.simulation.child("faq-r1-a1") is not None


@in_virtual_time
async def test_a_job_that_somebody_else_has_created_meanwhile_is_adopted() -> None:
    stage = Stage(faults=Faults(error_after={2: AlreadyExists("faq-r1-p1")}))
    status = await stage.run()
    assert status["child"]["name"] == "faq-r1-p1"


# --- what others say -----------------------------------------------------------------------------------------
@in_virtual_time
async def test_a_pod_that_does_not_start_is_explained_by_its_newest_warning() -> None:
    stage = Stage(fates={"faq-r1-p1": Fate(waits=_on_a_node())})
    await stage.run(ticks=2)
    pod = stage.simulation._pods("faq-r1-p1")[0]["metadata"]["name"]
    for index, message in enumerate(("pulling took long", 'secret "s3-credentials" not found')):
        stage.cluster.create(
            EVENTS,
            NAMESPACE,
            {
                "metadata": {"name": f"event-{index}"},
                "involvedObject": {"name": pod},
                "type": "Warning",
                "reason": "FailedMount",
                "message": message,
                "lastTimestamp": f"2026-01-01T00:0{index}:00Z",
            },
        )
    explained = summary(await stage.run(ticks=6))
    assert explained["reason"] == "PodNotStarting"
    assert 'secret "s3-credentials" not found' in explained["message"]


def _on_a_node() -> Json:
    return {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]}


# --- at rest and at work -------------------------------------------------------------------------------------
@in_virtual_time
async def test_nothing_is_written_at_rest() -> None:
    stage = Stage()
    await stage.run(ticks=15)
    assert stage.simulation.status()["phase"] == "Succeeded"
    before = len(stage.writes)
    await stage.run(ticks=100)
    assert len(stage.writes) == before


@in_virtual_time
async def test_one_job_needs_few_writes() -> None:
    """All of its life, events included, progress and Leases apart."""
    stage = Stage()
    await stage.run(ticks=15)
    assert len(stage.writes) + len(stage.operator.events.posted) <= 10


@in_virtual_time
async def test_progress_is_written_once_per_interval() -> None:
    stage = Stage(fates={"faq-r1-a1": Fate(ticks=30)})
    await stage.run(ticks=9)
    assert stage.simulation.status()["phase"] == "Training"
    before = len(stage.writes)
    for step in range(1, 13):
        stage.operator.progress.records[1, 1] = progress_record(step=step)
        stage.operator.queue.add(KEY)
        await stage.run(ticks=1)
    assert len(stage.writes) - before == 4
