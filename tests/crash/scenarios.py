"""What happens to a job, and the outcome it must have whatever happens to the operator in the meantime."""

from collections.abc import Callable

from finetune_contract import names
from finetune_operator.ports import FINETUNEJOBS, JOBS, Json
from tests.builders.jobs import make_job
from tests.builders.records import failed_record
from tests.crash.harness import KEY, Scenario
from tests.fakes.simulation import NODE_FAILS, Act, Fate, Simulation, fails, is_disrupted

_STORAGE_DOWN = fails(75, failed_record(75, "StorageUnavailable", "the bucket does not answer"))
_BAD_ROW = fails(3, failed_record(3, "InvalidRow", "faq.jsonl row 7: answer is empty", role="prepare"))
_CUDA_OOM = fails(71, failed_record(71, "OutOfMemory", "tried to allocate 2 GiB"))
_OOM_KILLED = fails(137, reason="OOMKilled")
_DRAINED = is_disrupted("EvictionByEvictionAPI", saved_step=40)
_LONG = Fate(ticks=5)


# --- what people do -----------------------------------------------------------------------------------------
def _when_running(job_name: str) -> Callable[[Simulation], bool]:
    return lambda simulation: bool(simulation.running_pods(job_name))


def _when_phase(phase: str) -> Callable[[Simulation], bool]:
    return lambda simulation: simulation.status().get("phase") == phase


def _edit(change: Callable[[Json], None]) -> Callable[[Simulation], None]:
    def act(simulation: Simulation) -> None:
        simulation.cluster.edit(FINETUNEJOBS, KEY.namespace, KEY.name, change)

    return act


def _suspend(wanted: bool) -> Callable[[Simulation], None]:
    return _edit(lambda job: job["spec"].update(suspend=wanted))


def _learn_slower(job: Json) -> None:
    job["spec"]["training"]["learningRate"] = 0.0001


def _request_restart(job: Json) -> None:
    job["metadata"]["annotations"] = {names.ANNOTATION_RESTARTED_AT: "2026-01-01T00:10:00Z"}


def _delete_child(name: str) -> Callable[[Simulation], None]:
    return lambda simulation: simulation.cluster.delete(JOBS, KEY.namespace, name)


def _delete_job(simulation: Simulation) -> None:
    simulation.cluster.delete(FINETUNEJOBS, KEY.namespace, KEY.name)


# --- scenarios -----------------------------------------------------------------------------------------------
SCENARIOS = [
    Scenario("one attempt succeeds", "Succeeded", want={"run": 1, "attempt": 1}),
    Scenario(
        "a transient failure is tried again",
        "Succeeded",
        fates={"faq-r1-a1": _STORAGE_DOWN},
        want={"attempt": 2, "failures": 1},
    ),
    Scenario(
        "failing storage exhausts the retries",
        "Failed",
        job=lambda: make_job().with_retries(1),
        fates={"faq-r1-a1": _STORAGE_DOWN, "faq-r1-a2": _STORAGE_DOWN},
        want={"attempt": 2, "failures": 2},
    ),
    Scenario("bad data is final before any training", "Failed", fates={"faq-r1-p1": _BAD_ROW}, want={"failures": 1}),
    Scenario(
        "running out of accelerator memory is final", "Failed", fates={"faq-r1-a1": _CUDA_OOM}, want={"failures": 1}
    ),
    Scenario(
        "a pod over its memory limit is tried again",
        "Succeeded",
        fates={"faq-r1-a1": _OOM_KILLED},
        want={"attempt": 2, "failures": 1},
    ),
    Scenario("a drain is not counted", "Succeeded", fates={"faq-r1-a1": _DRAINED}, want={"attempt": 2}),
    Scenario("a lost node is not waited for", "Succeeded", fates={"faq-r1-a1": NODE_FAILS}, want={"attempt": 2}),
    Scenario(
        "suspended during training and resumed",
        "Succeeded",
        fates={"faq-r1-a1": Fate(ticks=50, saved_step=40)},
        acts=lambda: [
            Act(_when_running("faq-r1-a1"), _suspend(True)),
            Act(_when_phase("Suspended"), _suspend(False)),
        ],
        want={"run": 1, "attempt": 2},
    ),
    Scenario(
        "suspended during preparation and resumed",
        "Succeeded",
        fates={"faq-r1-p1": Fate(ticks=50)},
        acts=lambda: [
            Act(_when_running("faq-r1-p1"), _suspend(True)),
            Act(_when_phase("Suspended"), _suspend(False)),
        ],
        want={"run": 1, "prepareAttempt": 2, "attempt": 1},
    ),
    Scenario(
        "a changed spec starts a new run during training",
        "Succeeded",
        fates={"faq-r1-a1": _LONG},
        acts=lambda: [Act(_when_running("faq-r1-a1"), _edit(_learn_slower))],
        want={"run": 2, "attempt": 1},
    ),
    Scenario(
        "a changed spec starts a new run after success",
        "Succeeded",
        acts=lambda: [Act(_when_phase("Succeeded"), _edit(_learn_slower))],
        want={"run": 2, "attempt": 1},
    ),
    Scenario(
        "a restart is requested after a failure",
        "Succeeded",
        fates={"faq-r1-p1": _BAD_ROW},
        acts=lambda: [Act(_when_phase("Failed"), _edit(_request_restart))],
        want={"run": 2, "attempt": 1},
    ),
    Scenario(
        "the Job is deleted by hand",
        "Succeeded",
        fates={"faq-r1-a1": _LONG},
        acts=lambda: [Act(_when_running("faq-r1-a1"), _delete_child("faq-r1-a1"))],
        want={"attempt": 2},
    ),
    Scenario(
        "the object is deleted during training",
        "gone",
        fates={"faq-r1-a1": _LONG},
        acts=lambda: [Act(_when_running("faq-r1-a1"), _delete_job)],
    ),
    Scenario("two nodes", "Succeeded", job=lambda: make_job().on_nodes(2), want={"attempt": 1}),
    Scenario(
        "one of two nodes is drained",
        "Succeeded",
        job=lambda: make_job().on_nodes(2),
        fates={"faq-r1-a1#0": Fate(ticks=9, saved_step=40), "faq-r1-a1#1": _DRAINED},
        want={"attempt": 2},
    ),
]
