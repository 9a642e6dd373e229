"""One table of kinds: whose turn it is, told by the real cache, feed and queue on the API in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune_contract import names
from finetune_operator.cache import Cache, resync
from finetune_operator.core.plan import Plan
from finetune_operator.feed import Feed
from finetune_operator.kinds import KINDS, Dispatcher, Kind, Tools, watched_by
from finetune_operator.ports import FINETUNEJOBS, GPUCLASSES, NODES, PODS, Change, Json, Key, Observed, Resource
from finetune_operator.workqueue import WorkQueue, work
from tests.builders.children import PodBuilder, train_pod
from tests.builders.jobs import NAMESPACE, PRODUCT, JobBuilder, make_class, make_job, make_node, make_t4
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import FakeCluster, FakeKubeApi
from tests.fakes.operator import OPTIONS, FakeEvents, FakeProgress
from tests.fakes.virtualtime import run

T4 = {PRODUCT: "Tesla-T4"}


@dataclass
class Shell:
    """The parts of an operator between the API server and the planners, fed with every change of the cluster."""

    kinds: Sequence[Kind] = KINDS
    handled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = LoopClock()
        self.cluster = FakeCluster(clock)
        self.api = FakeKubeApi(self.cluster)
        self.cache = Cache(watched_by(self.kinds))
        self.queue: WorkQueue[Key] = WorkQueue()
        self.feed = Feed(self.cache, self.queue, self.kinds)
        tools = Tools(self.api, self.cache, FakeProgress(), FakeEvents(), clock, OPTIONS)
        self._dispatcher = Dispatcher(self.kinds, tools)
        self._fed = 0

    async def start(self) -> None:
        self.feed.announce(await resync(self.cache, self.api))
        self._fed = len(self.cluster.history)
        self.feed.wake_unfinished()
        await self.rest()

    async def rest(self, seconds: float = 2.0) -> None:
        """Until nobody has anything to do, in virtual time: long enough for what is coalesced, too short for waits."""
        worker = asyncio.create_task(work(self.queue, self._handle, workers=2))
        for _ in range(20):
            self._feed_events()
            await asyncio.sleep(seconds / 20)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)

    def _feed_events(self) -> None:
        news = self.cluster.history[self._fed :]
        self._fed = len(self.cluster.history)
        for change in news:
            if change.resource in self.cache.watched:
                self.feed.observe(change.resource, change.type, change.obj)

    async def _handle(self, key: Key) -> float | None:
        self.handled.append(str(key))
        return (await self._dispatcher.reconcile(key)).requeue_after

    # --- what is there -------------------------------------------------------------------------------------------
    def add_job(self, job: JobBuilder, **status: object) -> None:
        stored = self.cluster.create(FINETUNEJOBS, NAMESPACE, job.bare())
        if status:
            known = {"run": 1, "observedGeneration": 1, "runHash": "hash-of-run", **status}
            self.cluster.replace_status(FINETUNEJOBS, {**stored, "status": known})

    def add_pod(self, pod: PodBuilder, of: str) -> None:
        body = pod.build()
        job = self.cluster.get(FINETUNEJOBS, NAMESPACE, of)
        body["metadata"]["name"] = f"{of}-{body['metadata']['name']}"
        body["metadata"]["labels"] |= {names.LABEL_JOB_NAME: of, "finetune.dev/job-uid": job["metadata"]["uid"]}
        status = body.pop("status")
        self.cluster.create(PODS, NAMESPACE, body)
        self.cluster.edit(PODS, NAMESPACE, body["metadata"]["name"], lambda stored: stored.update(status=status))

    def forget(self) -> None:
        """What has been written and handled so far."""
        self.api.writes.clear()
        self.handled.clear()

    def written(self) -> list[tuple[str, str]]:
        return [(write.verb, write.name) for write in self.api.writes]


# --- whose turn it is ----------------------------------------------------------------------------------------
def test_keys_are_readable_in_logs() -> None:
    assert str(FINETUNEJOBS.key("default", "faq")) == "default/faq"
    assert str(GPUCLASSES.key(None, "a100-80gb")) == "gpuclass/a100-80gb"
    assert str(SCHEDULES.key("default", "nightly")) == "finetuneschedule/default/nightly"


def test_a_hundred_new_nodes_write_what_they_change_and_nothing_else() -> None:
    """20 jobs train on a class that grows, one waits for a class that has no node, one for more nodes of one."""

    async def play() -> None:
        shell = Shell()
        for gpu_class in (make_class("cpu"), make_t4(), {**make_t4(), "metadata": {"name": "empty"}}):
            shell.cluster.create(GPUCLASSES, None, gpu_class)
        shell.cluster.edit(GPUCLASSES, None, "empty", _of_another_product)
        for index in range(2):
            shell.cluster.create(NODES, None, make_node(f"node-{index}", gpus=8, labels=T4))
        for index in range(20):
            shell.add_job(make_job(f"trains-{index}").on_gpus(), **_training())
        shell.add_job(make_job("waits").on_gpus("empty"))
        shell.add_job(make_job("wants-more").on_gpus().on_nodes(3))
        await shell.start()
        for index in range(20):
            shell.add_pod(train_pod().running("node-0"), f"trains-{index}")
        await shell.rest()
        assert {_phase(shell, f"trains-{index}") for index in range(20)} == {"Training"}
        shell.forget()

        for index in range(100):
            shell.cluster.create(NODES, None, make_node(f"new-{index}", gpus=8, labels=T4))
        await shell.rest()
        assert sorted(shell.written()) == [
            ("replace_status", "cpu"),
            ("replace_status", "t4-16gb"),
            ("replace_status", "wants-more"),
        ]
        assert set(shell.handled) == {"gpuclass/cpu", "gpuclass/t4-16gb", f"{NAMESPACE}/wants-more"}
        t4 = shell.cluster.get(GPUCLASSES, None, "t4-16gb")["status"]
        assert (t4["nodes"], t4["devices"]) == (102, 816)

    run(play())


def test_a_node_that_joins_or_leaves_a_class_wakes_those_who_wait_for_it() -> None:
    async def play() -> None:
        shell = Shell()
        for gpu_class in (make_class("cpu"), make_t4()):
            shell.cluster.create(GPUCLASSES, None, gpu_class)
        shell.cluster.create(NODES, None, make_node("node", gpus=1))
        shell.add_job(make_job("waits").on_gpus())
        await shell.start()
        for labels, want in ((T4, "True"), ({}, "Unknown")):
            shell.forget()
            shell.cluster.edit(NODES, None, "node", lambda node, labels=labels: node["metadata"].update(labels=labels))  # type: ignore[misc]
            await shell.rest()
            assert set(shell.handled) == {"gpuclass/t4-16gb", f"{NAMESPACE}/waits"}
            assert _planned(shell, "waits") == want

    run(play())


def test_a_node_that_fails_wakes_the_job_whose_pod_ends_there() -> None:
    async def play() -> None:
        shell = Shell()
        shell.cluster.create(GPUCLASSES, None, make_class("cpu"))
        for name in ("fails", "stays"):
            shell.cluster.create(NODES, None, make_node(name))
        for name, node in (("waits", "fails"), ("elsewhere", "stays")):
            shell.add_job(make_job(name), **_training(attempt=2, phase="Training"))
            shell.add_pod(train_pod(attempt=1).running(node).terminating(), name)
        await shell.start()
        shell.forget()
        shell.cluster.edit(NODES, None, "fails", lambda node: node["status"].update(conditions=[]))
        await shell.rest(seconds=1.0)
        assert ("create", "waits-r1-a2") in shell.written()
        assert f"{NAMESPACE}/elsewhere" not in shell.handled

    run(play())


def test_a_class_that_comes_wakes_those_who_name_one_that_is_not_there() -> None:
    async def play() -> None:
        shell = Shell()
        shell.cluster.create(NODES, None, make_node("node"))
        shell.add_job(make_job("names-it"))
        shell.add_job(make_job("names-another").on_gpus("h100"))
        await shell.start()
        shell.cluster.create(GPUCLASSES, None, make_class("cpu"))
        await shell.rest()
        assert _planned(shell, "names-it") == "True"
        message = _condition(shell, "names-another", "Planned")["message"]
        assert "there are: cpu." in message

    run(play())


# --- another kind --------------------------------------------------------------------------------------------
SCHEDULES = Resource("finetune.dev", "v1alpha1", "finetuneschedules", "FineTuneSchedule")


@dataclass(frozen=True)
class ScheduleSnapshot:
    raw: Json
    jobs: Sequence[str]


def decide_schedule(snapshot: ScheduleSnapshot) -> Plan:
    return Plan(status={"jobs": list(snapshot.jobs)})


@dataclass(frozen=True)
class SchedulePlanner:
    observed: Observed
    cache: list[Cache]

    async def plan(self, key: Key, raw: Json) -> tuple[Json, Plan]:
        jobs = [job["metadata"]["name"] for job in self.cache[0].all(FINETUNEJOBS) if _schedule_of(job) == key]
        return raw, decide_schedule(ScheduleSnapshot(raw, sorted(jobs)))


def _schedule_of(job: Json) -> Key | None:
    name = (job["metadata"].get("labels") or {}).get("schedule")
    return SCHEDULES.key(job["metadata"]["namespace"], name) if name else None


def _schedules_of(change: Change) -> list[Key]:
    key = _schedule_of(change.obj) if change.resource == FINETUNEJOBS else None
    return [] if key is None else [key]


def test_another_kind_is_one_entry() -> None:
    async def play() -> None:
        caches: list[Cache] = []
        entry = Kind(
            SCHEDULES,
            planner=lambda tools: SchedulePlanner(tools.observed, caches),
            related=lambda: _schedules_of,
            watches={FINETUNEJOBS: None},
        )
        shell = Shell([*KINDS, entry])
        caches.append(shell.cache)
        shell.cluster.create(GPUCLASSES, None, make_class("cpu"))
        shell.cluster.create(SCHEDULES, NAMESPACE, {"metadata": {"name": "nightly"}, "spec": {}})
        await shell.start()
        shell.forget()

        job = make_job("faq").bare()
        job["metadata"]["labels"] = {"schedule": "nightly"}
        shell.cluster.create(FINETUNEJOBS, NAMESPACE, job)
        await shell.rest()
        assert shell.cluster.get(SCHEDULES, NAMESPACE, "nightly")["status"] == {"jobs": ["faq"]}
        assert shell.written().count(("replace_status", "nightly")) == 1
        assert f"finetuneschedule/{NAMESPACE}/nightly" in shell.handled

    run(play())


# --- parts ---------------------------------------------------------------------------------------------------
def _of_another_product(gpu_class: Json) -> None:
    expression = {"key": PRODUCT, "operator": "In", "values": ["NVIDIA-H100"]}
    gpu_class["spec"]["nodeSelectorTerms"] = [{"matchExpressions": [expression]}]


def _training(attempt: int = 1, phase: str = "Training") -> dict[str, object]:
    prepared = {"uri": "s3://a/b", "digest": "sha256:abc"}
    return {"phase": phase, "prepareAttempt": 1, "prepared": prepared, "attempt": attempt}


def _condition(shell: Shell, job: str, type_: str) -> Json:
    conditions = shell.cluster.get(FINETUNEJOBS, NAMESPACE, job)["status"]["conditions"]
    return next(condition for condition in conditions if condition["type"] == type_)


def _phase(shell: Shell, job: str) -> str:
    return str(shell.cluster.get(FINETUNEJOBS, NAMESPACE, job)["status"]["phase"])


def _planned(shell: Shell, job: str) -> str:
    return str(_condition(shell, job, "Planned")["status"])
