"""The decisions about one job, as sentences: what is seen → what is done, said and waited for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from finetune_contract.jobspec import Attempt, JobFile
from finetune_contract.progress import ProgressRecord
from finetune_operator.core.decide import decide
from finetune_operator.core.identity import first_rule_hash, run_hash
from finetune_operator.core.plan import Create, DeleteJob, Plan, Trust
from finetune_operator.core.policies.reporting import progress_block
from finetune_operator.core.render.jobfile import ANNOTATION_JOB_FILE
from finetune_operator.core.snapshot import Obstacle, ObstacleKind
from tests.builders.children import ChildBuilder, prepare_child, prepare_pod, train_child, train_pod
from tests.builders.jobs import PRODUCT, JobBuilder, make_class, make_job, make_node, make_t4
from tests.builders.records import failed_record, prepared_record, progress_record, stopped_record, trained_record
from tests.builders.snapshots import NOW, PREPARED, SnapshotBuilder, make_snapshot


@dataclass(frozen=True)
class Row:
    sentence: str
    snapshot: SnapshotBuilder
    want_reason: str | None = None
    """Of the condition Succeeded."""
    want_status: str = "Unknown"
    want_phase: str | None = None
    want_message: str = ""
    """Contained in the message of Succeeded."""
    want_actions: tuple[str, ...] = ()
    want_events: tuple[str, ...] = ()
    want_needs: Trust = Trust.CACHE
    want_requeue: float | None = None
    want_fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the status; None: absent."""


def said(action: Create | DeleteJob) -> str:
    if isinstance(action, DeleteJob):
        return f"delete {action.name}"
    return f"create {action.body['kind']} {action.body['metadata']['name']}"


def summary(plan: Plan) -> Mapping[str, Any]:
    found = [condition for condition in plan.status.get("conditions", ()) if condition["type"] == "Succeeded"]
    return found[0] if found else {}


def condition(plan: Plan, type_: str) -> Mapping[str, Any]:
    return next((c for c in plan.status["conditions"] if c["type"] == type_), {})


STORAGE = failed_record(75, "StorageUnavailable", "no answer")
HISTORY = [{"run": 1, "attempt": 1, "role": "train", "reason": "Evicted", "counted": False, "checkpointStep": 40}]
T4_NODE = make_node("gpu-1", gpus=1, labels={PRODUCT: "Tesla-T4"})
ON_T4 = ("t4-16gb", 1)


def on_t4(gpus: int = 1) -> SnapshotBuilder:
    return make_snapshot(make_job().on_gpus(gpus=gpus)).with_classes(make_t4(), make_class("cpu")).with_nodes(T4_NODE)


FIRST = [
    Row(
        "a new job gets its first numbers before anything is created",
        make_snapshot(),
        want_reason="Preparing",
        want_phase="Preparing",
        want_requeue=0,
        want_fields={"run": 1, "prepareAttempt": 1, "attempt": None, "observedGeneration": 1},
    ),
    Row(
        "the preparation is created once its number is written down",
        make_snapshot().preparing(created=False),
        want_actions=("create Job faq-r1-p1",),
        want_needs=Trust.LIVE_JOB,
    ),
    Row(
        "a preparation that is there is followed, and known by its uid from then on",
        make_snapshot().preparing(created=False).seeing(prepare_child(), prepare_pod().running()),
        want_reason="Preparing",
        want_fields={"child": {"name": "faq-r1-p1", "uid": "uid-of-faq-r1-p1"}},
    ),
    Row(
        "a job that is being deleted is left alone",
        make_snapshot(make_job().being_deleted()).preparing(created=False),
        want_fields={"run": 1},
    ),
    Row(
        "rows are there: the number of the training stands in status first",
        make_snapshot().preparing().seeing(prepare_child().complete(), prepare_pod().left(prepared_record())),
        want_reason="Starting",
        want_phase="Pending",
        want_events=("Prepared",),
        want_requeue=0,
        want_fields={"attempt": 1, "child": None},
    ),
    Row(
        "the training is created once its number is written down",
        make_snapshot().training(created=False),
        want_actions=("create Job faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
    ),
    Row(
        "several nodes meet behind a Service, which is there first",
        make_snapshot(make_job().on_nodes(2)).training(created=False),
        want_actions=("create Service faq-r1", "create Job faq-r1-a1"),
        want_needs=Trust.LIVE_JOB,
    ),
    Row(
        "a later attempt is created after a look at the server",
        make_snapshot().training(2, created=False),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
]

SPEC = [
    Row(
        "a value that no version could read is refused with the field",
        make_snapshot(make_job().having("training.epochs", "many")),
        want_status="False",
        want_reason="InvalidSpec",
        want_phase="Failed",
        want_message="spec.training.epochs",
        want_events=("Failed",),
    ),
    Row(
        "a Secret that cannot exist is refused",
        make_snapshot(make_job().having("storage.secretName", "Not_A_Name")),
        want_status="False",
        want_reason="InvalidSpec",
        want_phase="Failed",
        want_message="spec.storage.secretName",
        want_events=("Failed",),
    ),
    Row(
        "a claim that cannot exist is refused",
        make_snapshot(make_job().having("model.source", "pvc://My_Claim/model")),
        want_status="False",
        want_reason="InvalidSpec",
        want_phase="Failed",
        want_message="pvc://My_Claim",
        want_events=("Failed",),
    ),
    Row(
        "a claim that can exist is taken",
        make_snapshot(make_job().having("model.source", "pvc://models/smol").having("storage.secretName", None)),
        want_reason="Preparing",
        want_requeue=0,
    ),
]

ACCEPTED = [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}]


def newer(**changes: Any) -> JobBuilder:
    """A job edited under a newer CRD: another learning rate, which makes a new run, and a field nobody here knows."""
    job = make_job().at_generation(2).having("training.learningRate", 0.5).having("training.unheardOf", 1)
    for path, value in changes.items():
        job = job.having(path, value)
    return job


SKEW = [
    Row(
        "a new job with a field that this operator does not know waits for an upgrade",
        make_snapshot(make_job().having("training.unheardOf", 1)),
        want_reason="UnknownField",
        want_phase="Pending",
        want_message="spec.training.unheardOf is a field that this version of the operator does not know",
        want_requeue=300,
        want_fields={"run": None, "observedGeneration": None, "runHash": None},
    ),
    Row(
        "an unknown field of a list is named by its place",
        make_snapshot(make_job().having("dataset.train", [{"source": "s3://data/faq.jsonl", "shard": 1}])),
        want_reason="UnknownField",
        want_message="spec.dataset.train[0].shard",
        want_requeue=300,
    ),
    Row(
        "an unknown value of a choice waits as well: this CRD would have refused a slip",
        make_snapshot(make_job().having("stage", "dpo")),
        want_reason="UnknownField",
        want_message="spec.stage has a value that this version of the operator does not know",
        want_requeue=300,
    ),
    Row(
        "an edit with an unknown field stops nothing: the old run trains on",
        make_snapshot(newer()).training().seeing(train_child(), train_pod().running()),
        want_reason="Training",
        want_phase="Training",
        want_fields={"run": 1, "observedGeneration": 1},
    ),
    Row(
        "its progress is taken",
        make_snapshot(newer())
        .training()
        .seeing(train_child(), train_pod().running())
        .with_progress(progress_record(step=42)),
        want_reason="Training",
        want_fields={"phase": "Training", "run": 1},
    ),
    Row(
        "its success is success",
        make_snapshot(newer()).training().seeing(train_child().complete(), train_pod().left(trained_record())),
        want_status="True",
        want_reason="Succeeded",
        want_events=("Succeeded",),
        want_fields={"run": 1, "observedGeneration": 1},
    ),
    Row(
        "its bad data is final",
        make_snapshot(newer())
        .preparing()
        .seeing(
            prepare_child().failed(),
            prepare_pod().left(failed_record(3, "InvalidRow", "faq.jsonl row 7", role="prepare")),
        ),
        want_status="False",
        want_reason="InvalidRow",
        want_events=("Failed",),
    ),
    Row(
        "its full accelerator is final, with cures that need no spec",
        make_snapshot(newer())
        .training()
        .seeing(train_child().failed(), train_pod().left(failed_record(71, "OutOfMemory", "2 GiB wanted."))),
        want_status="False",
        want_reason="AcceleratorOutOfMemory",
        want_message="What helps: a lower training.perDeviceBatchSize",
        want_events=("Failed",),
    ),
    Row(
        "its failure is counted, and the next attempt waits for the upgrade",
        make_snapshot(newer()).training().seeing(train_child().failed(), train_pod().left(STORAGE)),
        want_reason="UnknownField",
        want_phase="Pending",
        want_events=("AttemptFailed",),
        want_requeue=300,
        want_fields={"attempt": 2, "failures": 1, "child": None},
    ),
    Row(
        "an attempt that was numbered and not created waits for the upgrade",
        make_snapshot(newer()).training(2, created=False),
        want_reason="UnknownField",
        want_phase="Pending",
        want_requeue=300,
        want_fields={"attempt": 2},
    ),
    Row(
        "rows that are prepared wait for the upgrade",
        make_snapshot(newer()).preparing().seeing(prepare_child().complete(), prepare_pod().left(prepared_record())),
        want_reason="UnknownField",
        want_events=("Prepared",),
        want_requeue=300,
        want_fields={"attempt": None, "child": None},
    ),
    Row(
        "a Job that somebody deleted is lost, and not replaced before the upgrade",
        make_snapshot(newer()).training(),
        want_reason="UnknownField",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=300,
        want_fields={"attempt": 2},
    ),
    Row(
        "a class that vanishes meanwhile is of no matter",
        make_snapshot(newer()).with_classes().training().seeing(train_child(), train_pod().running()),
        want_reason="Training",
    ),
    Row(
        "suspension is understood",
        make_snapshot(newer(suspend=True)).training().seeing(train_child(), train_pod().running()),
        want_reason="Suspending",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
        want_requeue=5,
    ),
    Row(
        "a verdict stays, and the edit after it waits",
        make_snapshot(newer()).ended("True", "Succeeded"),
        want_status="True",
        want_reason="Succeeded",
        want_phase="Succeeded",
        want_requeue=300,
        want_fields={"run": 1, "observedGeneration": 1},
    ),
    Row(
        "a verdict under an operator that was rolled back is at rest",
        make_snapshot(make_job().having("training.unheardOf", 1)).ended("True", "Succeeded"),
        want_status="True",
        want_reason="Succeeded",
        want_requeue=None,
        want_fields={"observedGeneration": 1},
    ),
    Row(
        "a restart that is asked for waits as well",
        make_snapshot(make_job().restarted_at("today").having("training.unheardOf", 1)).ended("False", "InvalidRow"),
        want_status="False",
        want_reason="InvalidRow",
        want_requeue=300,
        want_fields={"run": 1, "restartedAt": None},
    ),
    Row(
        "a value that another operator accepted is not refused while its run is at work",
        make_snapshot(make_job().having("training.epochs", "many"))
        .training(conditions=ACCEPTED)
        .seeing(train_child(), train_pod().running()),
        want_reason="Training",
    ),
    Row(
        "and stalls the run before the next attempt",
        make_snapshot(make_job().having("training.epochs", "many")).training(2, created=False, conditions=ACCEPTED),
        want_reason="UnreadableSpec",
        want_phase="Pending",
        want_message="roll the operator back",
        want_requeue=300,
    ),
    Row(
        "and is refused when it came with an edit",
        make_snapshot(make_job().having("training.epochs", "many").at_generation(2)).training(
            2, created=False, conditions=ACCEPTED
        ),
        want_status="False",
        want_reason="InvalidSpec",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("Failed",),
        want_fields={"run": 2},
    ),
]

MISREAD = [{**HISTORY[0], "reason": "InvalidJobFile", "message": "version: 2 is unknown"}]
OF_THIS_IMAGE = [{**MISREAD[0], "image": "registry/finetune-trainer:1"}]
OF_ANOTHER_IMAGE = [{**MISREAD[0], "image": "registry/finetune-trainer:0"}]

IMAGES = [
    Row(
        "a trainer that does not know the job file is waited for, and nobody is blamed",
        make_snapshot()
        .training()
        .seeing(train_child().failed(), train_pod().left(failed_record(2, "InvalidJobFile", "version: 2 is unknown"))),
        want_reason="InvalidJobFile",
        want_phase="Pending",
        want_message="Trainer image registry/finetune-trainer:1 does not understand the job file of this operator: ver",
        want_events=("AttemptStopped",),
        want_requeue=300,
        want_fields={"attempt": 2, "failures": None, "stops": None, "child": None},
    ),
    Row(
        "one that does not know the file of a preparation neither",
        make_snapshot()
        .preparing()
        .seeing(
            prepare_child().failed(),
            prepare_pod().left(failed_record(2, "InvalidJobFile", "version: 2 is unknown", role="prepare")),
        ),
        want_reason="InvalidJobFile",
        want_events=("AttemptStopped",),
        want_requeue=300,
        want_fields={"prepareAttempt": 2, "failures": None},
    ),
    Row(
        "no further attempt is created with the same image",
        make_snapshot().training(2, created=False, history=OF_THIS_IMAGE),
        want_reason="InvalidJobFile",
        want_requeue=300,
        want_fields={"attempt": 2},
    ),
    Row(
        "the next attempt follows with another image",
        make_snapshot().training(2, created=False, history=OF_ANOTHER_IMAGE),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "the image of the Job that stayed counts where status does not say it",
        make_snapshot().training(2, created=False, history=MISREAD).seeing(train_child(1).failed()),
        want_reason="InvalidJobFile",
        want_requeue=300,
    ),
    Row(
        "and another image of it lets the next attempt follow",
        make_snapshot()
        .training(2, created=False, history=MISREAD)
        .seeing(train_child(1).failed().of_image("registry/finetune-trainer:0")),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
]

LOST = {"role": "train", "number": 2, "reason": "NodeLost", "resume": "newest", "notOlderThanStep": 60}
WAITS = progress_record(step=42, waiting="The checkpoint of step 42 cannot be stored: the bucket is full")
RESUMED_AT_40 = progress_record(step=41, attempt=2, checkpoint_step=40, checkpoint_uri="s3://c/40", lost_steps=20)

ATTEMPTS = [
    Row(
        "the settings of the first attempt stand in status with its number",
        make_snapshot(),
        want_requeue=0,
        want_fields={
            "currentAttempt": {"role": "prepare", "number": 1, "reason": "FirstAttempt", "resume": "none"},
        },
    ),
    Row(
        "the next attempt says why it is there, and which checkpoint is known",
        make_snapshot().training(checkpoint={"step": 40}).seeing(train_child().failed(), train_pod().left(STORAGE)),
        want_events=("AttemptFailed",),
        want_requeue=pytest.approx(10, abs=4),
        want_fields={
            "currentAttempt": {
                "role": "train",
                "number": 2,
                "reason": "StorageUnavailable",
                "resume": "newest",
                "notOlderThanStep": 40,
            }
        },
    ),
    Row(
        "an attempt after a suspension says so",
        make_snapshot(make_job().suspended()).training(2, checkpoint={"step": 40}, history=HISTORY),
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("Suspended",),
        want_fields={
            "currentAttempt": {
                "role": "train",
                "number": 3,
                "reason": "Suspended",
                "resume": "newest",
                "notOlderThanStep": 40,
            }
        },
    ),
    Row(
        "an attempt that 0.1.0 numbered gets its settings when it is created",
        make_snapshot().training(created=False, currentAttempt=None),
        want_actions=("create Job faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
        want_fields={
            "currentAttempt": {"role": "train", "number": 1, "reason": "FirstAttempt", "resume": "newest"},
        },
    ),
    Row(
        "an attempt that 0.1.0 created has none, and gets none",
        make_snapshot().training(currentAttempt=None).seeing(train_child(), train_pod().running()),
        want_reason="Training",
        want_fields={"currentAttempt": None},
    ),
    Row(
        "steps whose checkpoint is gone are reported, and the older checkpoint is the newest then",
        make_snapshot()
        .training(2, checkpoint={"step": 60}, currentAttempt=LOST)
        .seeing(train_child(2), train_pod(attempt=2).running())
        .with_progress(RESUMED_AT_40),
        want_reason="Training",
        want_events=("StepsLost",),
        want_fields={
            "checkpoint": {"step": 40, "uri": "s3://c/40", "time": "2026-01-01T00:05:00Z"},
            "currentAttempt": {**LOST, "lostSteps": 20},
        },
    ),
    Row(
        "once",
        make_snapshot()
        .training(2, checkpoint={"step": 40}, currentAttempt={**LOST, "lostSteps": 20})
        .seeing(train_child(2), train_pod(attempt=2).running())
        .with_progress(RESUMED_AT_40),
        want_reason="Training",
        want_fields={"checkpoint": {"step": 40}},
    ),
    Row(
        "a run whose only checkpoint is gone has none then",
        make_snapshot()
        .training(2, checkpoint={"step": 60}, currentAttempt=LOST)
        .seeing(train_child(2), train_pod(attempt=2).running())
        .with_progress(progress_record(step=1, attempt=2, checkpoint_step=None, lost_steps=60)),
        want_reason="Training",
        want_events=("StepsLost",),
        want_fields={"checkpoint": None},
    ),
]

PLACEMENT = [
    Row(
        "a class that is not there is waited for, with the names that are",
        make_snapshot(make_job().on_gpus("h100")).with_classes(make_class("cpu"), make_t4()),
        want_reason="GPUClassNotFound",
        want_phase="Pending",
        want_message="there are: cpu, t4-16gb",
    ),
    Row(
        "without any class it says so",
        make_snapshot().with_classes(),
        want_reason="GPUClassNotFound",
        want_phase="Pending",
        want_message="there are: none",
    ),
    Row(
        "a class that vanishes does not stop what runs",
        make_snapshot().with_classes().preparing().seeing(prepare_child(), prepare_pod().running()),
        want_reason="GPUClassNotFound",
        want_phase="Preparing",
    ),
    Row(
        "devices on a class without devices are refused",
        make_snapshot(make_job().having("resources.gpusPerNode", 1)),
        want_status="False",
        want_reason="InvalidResources",
        want_phase="Failed",
        want_message="class cpu has no device",
        want_events=("Failed",),
    ),
    Row(
        "two processes cannot share one GPU",
        make_snapshot(make_job().having("resources.gpuClass", "t4-16gb").having("resources.processesPerNode", 2))
        .with_classes(make_t4())
        .with_nodes(T4_NODE),
        want_status="False",
        want_reason="InvalidResources",
        want_phase="Failed",
        want_message="spec.resources.processesPerNode",
        want_events=("Failed",),
    ),
    Row(
        "no matching node is told while the data is being prepared",
        on_t4().with_nodes(make_node("node-1")).preparing().seeing(prepare_child(), prepare_pod().running()),
        want_reason="NoMatchingNodes",
        want_phase="Preparing",
        want_message="Tesla-T4",
    ),
    Row(
        "no matching node is told from the start",
        on_t4().with_nodes(make_node("node-1")).preparing(created=False).seeing(prepare_child()),
        want_reason="NoMatchingNodes",
        want_phase="Preparing",
        want_requeue=300,
    ),
    Row(
        "a pending training pod says which label is missing, and what the scheduler says",
        on_t4()
        .with_nodes(make_node("node-1"))
        .training()
        .seeing(train_child(), train_pod().unschedulable("0/1 nodes are available")),
        want_reason="NoMatchingNodes",
        want_phase="Pending",
        want_message="0/1 nodes are available",
    ),
    Row(
        "too few devices on the nodes are told with the numbers",
        on_t4(gpus=4).preparing().seeing(prepare_child(), prepare_pod().running()),
        want_reason="TooFewNodes",
        want_phase="Preparing",
        want_message="1 belong to the class, 0 have enough devices",
    ),
    Row(
        "too few nodes are told with the numbers",
        make_snapshot(make_job().on_nodes(3)).preparing().seeing(prepare_child(), prepare_pod().running()),
        want_reason="TooFewNodes",
        want_phase="Preparing",
        want_message="3 node(s) of class cpu wanted; 2 belong to the class",
    ),
    Row(
        "nodes that go do not shake what is placed",
        on_t4().training(plan={"gpuClass": "t4-16gb"}).with_nodes().seeing(train_child(), train_pod().running("gpu-1")),
        want_reason="Training",
        want_phase="Training",
        want_fields={"plan": {"gpuClass": "t4-16gb"}},
    ),
    Row(
        "a model that cannot fit is refused before a GPU is asked for",
        on_t4().training(created=False, attempt=0, prepared={**PREPARED, "parameters": 13_000_000_000}),
        want_status="False",
        want_reason="DoesNotFit",
        want_phase="Failed",
        want_message="need at least 24.2 GiB on each device; class t4-16gb has 15.0 GiB. What helps: method.type qlora",
        want_events=("Failed",),
    ),
    Row(
        "a model that fits is numbered",
        on_t4().training(created=False, attempt=0),
        want_requeue=0,
        want_reason=None,
        want_fields={"attempt": 1},
    ),
    Row(
        "a model of unknown size is tried",
        on_t4().training(created=False, attempt=0, prepared={**PREPARED, "parameters": 0}),
        want_requeue=0,
        want_fields={"attempt": 1},
    ),
]

ENDS = [
    Row(
        "bad data is final before any GPU",
        make_snapshot()
        .preparing()
        .seeing(
            prepare_child().failed(),
            prepare_pod().left(failed_record(3, "InvalidRow", "faq.jsonl row 7", role="prepare")),
        ),
        want_status="False",
        want_reason="InvalidRow",
        want_phase="Failed",
        want_message="faq.jsonl row 7",
        want_events=("Failed",),
        want_fields={"failures": 1, "child": None, "completionTime": "2026-01-01T00:05:00Z"},
    ),
    Row(
        "a full accelerator is final, and the data stays prepared",
        make_snapshot()
        .training()
        .seeing(train_child().failed(), train_pod().left(failed_record(71, "OutOfMemory", "2 GiB wanted."))),
        want_status="False",
        want_reason="AcceleratorOutOfMemory",
        want_phase="Failed",
        want_message="2 GiB wanted. What helps: a lower training.perDeviceBatchSize",
        want_events=("Failed",),
        want_fields={"prepared": PREPARED},
    ),
    Row(
        "an artifact is success",
        make_snapshot().training().seeing(train_child().complete(), train_pod().left(trained_record())),
        want_status="True",
        want_reason="Succeeded",
        want_phase="Succeeded",
        want_message="5 file(s), 4096 bytes, published and verified at s3://",
        want_events=("Succeeded",),
    ),
    Row(
        "success without an evaluation has none",
        make_snapshot()
        .training()
        .seeing(
            train_child().complete(),
            train_pod().left(trained_record().model_copy(update={"evaluation": None, "progress": None})),
        ),
        want_status="True",
        want_reason="Succeeded",
        want_events=("Succeeded",),
        want_fields={"evaluation": None, "progress": None},
    ),
    Row(
        "a transient failure backs off, and its successor is numbered",
        make_snapshot().training().seeing(train_child().failed(), train_pod().left(STORAGE)),
        want_reason="BackingOff",
        want_phase="Pending",
        want_message="StorageUnavailable",
        want_events=("AttemptFailed",),
        want_requeue=pytest.approx(10, abs=4),
        want_fields={"attempt": 2, "failures": 1, "child": None},
    ),
    Row(
        "a preparation that failed transiently is numbered anew",
        make_snapshot()
        .preparing()
        .seeing(prepare_child().failed(), prepare_pod().left(failed_record(75, "HubDown", "503", role="prepare"))),
        want_reason="BackingOff",
        want_events=("AttemptFailed",),
        want_requeue=pytest.approx(10, abs=4),
        want_fields={"prepareAttempt": 2, "attempt": None, "failures": 1},
    ),
    Row(
        "the last retry that fails ends the run and says how to start another",
        make_snapshot(make_job().with_retries(1))
        .training(2, failures=1)
        .seeing(train_child(2).failed(), train_pod(attempt=2).left(STORAGE)),
        want_status="False",
        want_reason="RetriesExhausted",
        want_phase="Failed",
        want_message="kubectl annotate ftj faq --overwrite finetune.dev/restartedAt",
        want_events=("Failed",),
        want_fields={"failures": 2, "attempt": 2},
    ),
    Row(
        "a drain goes on at once, from its checkpoint, and does not count",
        make_snapshot()
        .training()
        .seeing(
            train_child().failed(),
            train_pod().left(stopped_record(40)).disrupted("EvictionByEvictionAPI").terminating(),
        ),
        want_reason="Starting",
        want_phase="Pending",
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 2, "failures": None, "stops": None},
    ),
    Row(
        "what was seen of a pod that is gone is evidence",
        make_snapshot().training().seeing(train_child().complete()).having_seen(train_pod().left(trained_record())),
        want_status="True",
        want_reason="Succeeded",
        want_events=("Succeeded",),
    ),
    Row(
        "an end that nobody saw is looked up at the server",
        make_snapshot().training().seeing(train_child().complete()),
        want_reason="Starting",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 2, "stops": 1},
    ),
    Row(
        "the third stop without a newer checkpoint counts",
        make_snapshot()
        .training(3, stops=2, history=HISTORY, checkpoint={"step": 40})
        .seeing(train_child(3).failed(), train_pod(attempt=3).running().disrupted("PreemptionByScheduler")),
        want_reason="BackingOff",
        want_events=("AttemptFailed",),
        want_requeue=pytest.approx(10, abs=4),
        want_fields={"attempt": 4, "failures": 1, "stops": None},
    ),
    Row(
        "a stop with a newer checkpoint never counts",
        make_snapshot()
        .training(3, stops=2, history=HISTORY, checkpoint={"step": 40})
        .seeing(
            train_child(3).failed(),
            train_pod(attempt=3).left(stopped_record(60, 3)).disrupted("PreemptionByScheduler"),
        ),
        want_reason="Starting",
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 4, "failures": None, "stops": None},
    ),
    Row(
        "a Job that somebody deleted is an attempt that is lost",
        make_snapshot().training(),
        want_reason="Starting",
        want_message="ChildLost",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 2, "stops": 1},
    ),
    Row(
        "a Job that somebody is deleting is lost as well",
        make_snapshot().training().seeing(train_child().being_deleted()),
        want_reason="Starting",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 2},
    ),
    Row(
        "a Job that was replaced by hand is lost as well",
        make_snapshot().training().seeing(train_child().with_uid("another")),
        want_reason="Starting",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=0,
        want_fields={"attempt": 2},
    ),
]

WAITING = [
    Row(
        "the backoff is waited for",
        make_snapshot().training(2, created=False, nextAttemptTime="2026-01-01T00:05:30Z"),
        want_reason="BackingOff",
        want_phase="Pending",
        want_requeue=30,
    ),
    Row(
        "a time of a clock that was far ahead is not waited for",
        make_snapshot().training(2, created=False, nextAttemptTime="2026-01-02T00:00:00Z"),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "the pods of the former attempt are waited for",
        make_snapshot()
        .training(2, created=False)
        .seeing(train_child(1).failed(), train_pod(attempt=1).running().terminating()),
        want_reason="WaitingForPods",
        want_phase="Pending",
        want_message="faq-r1-a1-0-abcde",
        want_requeue=5,
    ),
    Row(
        "pods of this attempt without its Job are waited for",
        make_snapshot().training(created=False).seeing(train_pod().running()),
        want_reason="WaitingForPods",
        want_requeue=5,
    ),
    Row(
        "a pod without a node is waited for: it goes by itself",
        make_snapshot().training(2, created=False).seeing(train_pod(attempt=1).terminating()),
        want_reason="WaitingForPods",
        want_requeue=5,
    ),
    Row(
        "a pod that is being deleted on a node that is gone is not",
        make_snapshot()
        .training(2, created=False)
        .with_nodes(make_node("node-1", ready=False), make_node("node-2"))
        .seeing(train_child(1).failed(), train_pod(attempt=1).running().terminating()),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "pods of a deleted namesake are not ours to wait for",
        make_snapshot().training(2, created=False).seeing(train_pod(attempt=1).running().of_uid("former-job")),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "the pods are starting",
        make_snapshot()
        .training(phase="Pending")
        .seeing(train_child(), train_pod().waiting("ContainerCreating"))
        .at(NOW - timedelta(seconds=296)),
        want_reason="Starting",
        want_phase="Pending",
        want_requeue=6,
    ),
    Row(
        "all pods run: it trains",
        make_snapshot().training(phase="Pending").seeing(train_child(), train_pod().running()),
        want_reason="Training",
        want_phase="Training",
    ),
    Row(
        "a rank that is ready before the other waits with it",
        make_snapshot(make_job().on_nodes(2))
        .training(phase="Pending")
        .seeing(train_child(), train_pod(0).running(), train_pod(1).unschedulable("0/2 nodes are available")),
        want_reason="Unschedulable",
        want_phase="Pending",
        want_message="faq-r1-a1-1-abcde finds no node: 0/2 nodes are available",
    ),
    Row(
        "a pod that runs is at work, whatever the scheduler still writes about it",
        make_snapshot().training(phase="Pending").seeing(train_child(), train_pod().unschedulable("late").running()),
        want_reason="Training",
        want_phase="Training",
    ),
    Row(
        "a pod that has just been deleted does not take the training back",
        make_snapshot()
        .training(conditions=[{"type": "Succeeded", "status": "Unknown", "reason": "Training", "message": ""}])
        .seeing(train_child(), train_pod().running().terminating())
        .having_seen(train_pod(1).running()),
        want_reason="Training",
        want_phase="Training",
    ),
    Row(
        "an image that cannot be pulled is told in the kubelet's words",
        make_snapshot().preparing().seeing(prepare_child(), prepare_pod().waiting("ImagePullBackOff", "no such tag")),
        want_reason="ImagePullFailed",
        want_phase="Preparing",
        want_message="no such tag",
        want_requeue=None,
    ),
    Row(
        "a container that cannot be configured is told in the kubelet's words",
        make_snapshot().training().seeing(train_child(), train_pod().waiting("CreateContainerError", "no secret")),
        want_reason="PodNotStarting",
        want_phase="Pending",
        want_message="no secret",
    ),
    Row(
        "a volume that does not mount is told by its event",
        make_snapshot()
        .training(phase="Pending")
        .seeing(train_child(), train_pod().waiting("ContainerCreating"))
        .with_warning("FailedMount", 'secret "s3-credentials" not found'),
        want_reason="PodNotStarting",
        want_message='(FailedMount): secret "s3-credentials" not found',
        want_requeue=300,
    ),
    Row(
        "a quota that is used up is told by its event",
        make_snapshot()
        .training(phase="Pending")
        .seeing(train_child())
        .with_warning("FailedCreate", "exceeded quota: team-a"),
        want_reason="NoPods",
        want_message="exceeded quota: team-a",
        want_requeue=300,
    ),
    Row(
        "a pod that is slow for no known reason is starting",
        make_snapshot()
        .training(phase="Pending")
        .seeing(train_child(), train_pod().waiting("ContainerCreating"))
        .with_warning("", ""),
        want_reason="Starting",
        want_requeue=300,
    ),
]

SUSPENSION = [
    Row(
        "suspended before it began: nothing is created",
        make_snapshot(make_job().suspended()),
        want_reason="Suspended",
        want_phase="Suspended",
        want_events=("Suspended",),
        want_fields={"run": 1, "prepareAttempt": None},
    ),
    Row(
        "suspended in training: the Job is deleted",
        make_snapshot(make_job().suspended()).training().seeing(train_child(), train_pod().running()),
        want_reason="Suspending",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
        want_requeue=5,
    ),
    Row(
        "a Job that is not written down yet is written down before it is deleted",
        make_snapshot(make_job().suspended()).training(created=False).seeing(train_child()),
        want_reason="Suspending",
        want_requeue=0,
        want_fields={"child": {"name": "faq-r1-a1", "uid": "uid-of-faq-r1-a1"}},
    ),
    Row(
        "a Job that is being deleted is waited for",
        make_snapshot(make_job().suspended()).training().seeing(train_child().being_deleted()),
        want_reason="Suspending",
        want_requeue=5,
    ),
    Row(
        "its pods are waited for",
        make_snapshot(make_job().suspended()).training().seeing(train_pod().running().terminating()),
        want_reason="Suspending",
        want_requeue=5,
    ),
    Row(
        "it is suspended when they are gone, and the next number is ready",
        make_snapshot(make_job().suspended()).training(checkpoint={"step": 40}),
        want_reason="Suspended",
        want_phase="Suspended",
        want_message="from the checkpoint of step 40",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("Suspended",),
        want_fields={"attempt": 2, "child": None},
    ),
    Row(
        "what is suspended stays as it is",
        make_snapshot(make_job().suspended()).training(2, created=False, phase="Suspended"),
        want_reason="Suspended",
        want_phase="Suspended",
        want_fields={"attempt": 2},
    ),
    Row(
        "resumed: the next attempt is created",
        make_snapshot().training(2, created=False, phase="Suspended"),
        want_actions=("create Job faq-r1-a2",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "what has ended by itself is not stopped",
        make_snapshot(make_job().suspended())
        .training()
        .seeing(train_child().complete(), train_pod().left(trained_record())),
        want_status="True",
        want_reason="Succeeded",
        want_events=("Succeeded",),
    ),
    Row(
        "a verdict ignores suspension",
        make_snapshot(make_job().suspended()).ended("True", "Succeeded"),
        want_status="True",
        want_reason="Succeeded",
        want_phase="Succeeded",
    ),
]


def carrying_hash_of_0_1_0() -> ChildBuilder:
    return train_child().hashed(first_rule_hash(make_job().build()["spec"]))


RUNS = [
    Row(
        "a changed spec stops the run first, and is not observed yet",
        make_snapshot(make_job().at_generation(2)).training().seeing(train_child(), train_pod().running()),
        want_reason="Replacing",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
        want_requeue=5,
        want_fields={"run": 1, "observedGeneration": 1},
    ),
    Row(
        "its pods are waited for",
        make_snapshot(make_job().at_generation(2)).training().seeing(train_pod().running().terminating()),
        want_reason="Replacing",
        want_requeue=5,
        want_fields={"run": 1, "observedGeneration": 1},
    ),
    Row(
        "the new run begins when they are gone",
        make_snapshot(make_job().at_generation(2)).training(failures=2).with_own_hash().seeing(),
        want_fields={"run": 1, "failures": 2, "observedGeneration": 2, "attempt": 2},
        want_reason="Starting",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("AttemptStopped",),
        want_requeue=0,
    ),
    Row(
        "a new run starts with its counters at zero and its history kept",
        make_snapshot(make_job().at_generation(2)).training(failures=2, history=HISTORY),
        want_reason="Preparing",
        want_needs=Trust.LIVE_CHILDREN,
        want_requeue=0,
        want_fields={"run": 2, "prepareAttempt": 1, "failures": None, "attempt": None, "history": HISTORY},
    ),
    Row(
        "a verdict is replaced at once, without a look for pods",
        make_snapshot(make_job().at_generation(2)).ended("False", "InvalidRow"),
        want_reason="Preparing",
        want_phase="Preparing",
        want_requeue=0,
        want_fields={"run": 2, "observedGeneration": 2, "completionTime": None},
    ),
    Row(
        "another hash without another generation is an upgrade, and no new run",
        make_snapshot().ended("True", "Succeeded"),
        want_status="True",
        want_reason="Succeeded",
        want_fields={"run": 1, "runHash": "hash-of-run"},
    ),
    Row(
        "a child that carries the hash of 0.1.0 and is not in status yet is ours, and recorded with the new hash",
        make_snapshot()
        .training(created=False)
        .with_hash_of_0_1_0()
        .seeing(carrying_hash_of_0_1_0(), train_pod().running()),
        want_reason="Training",
        want_needs=Trust.LIVE_CHILDREN,
        want_fields={
            "runHash": run_hash(make_job().build()["spec"]),
            "child": {"name": "faq-r1-a1", "uid": "uid-of-faq-r1-a1"},
        },
    ),
    Row(
        "no child is created before the new hash is written down",
        make_snapshot().training(created=False).with_hash_of_0_1_0(),
        want_needs=Trust.LIVE_CHILDREN,
        want_requeue=0,
        want_fields={"runHash": run_hash(make_job().build()["spec"])},
    ),
    Row(
        "another generation with the same hash is observed, and no new run",
        make_snapshot(make_job().at_generation(5)).ended("True", "Succeeded").with_own_hash(),
        want_status="True",
        want_reason="Succeeded",
        want_fields={"run": 1, "observedGeneration": 5},
    ),
    Row(
        "a restart that is asked for starts a new run",
        make_snapshot(make_job().restarted_at("today")).ended("False", "RetriesExhausted").with_own_hash(),
        want_reason="Preparing",
        want_requeue=0,
        want_fields={"run": 2, "restartedAt": "today"},
    ),
    Row(
        "children of former runs are removed",
        make_snapshot()
        .with_status(run=2, prepareAttempt=1, child={"name": "faq-r2-p1", "uid": "uid-of-faq-r2-p1"})
        .seeing(prepare_child(run=2), prepare_pod(run=2).running(), train_child(run=1).complete()),
        want_reason="Preparing",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_JOB,
    ),
    Row(
        "an unfinished Job that is not the current attempt is removed",
        make_snapshot().training(2).seeing(train_child(1), train_child(2), train_pod(attempt=2).running()),
        want_reason="Training",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "an unfinished Job of a run that has its verdict is removed",
        make_snapshot().ended("False", "InvalidResources").seeing(train_child()),
        want_status="False",
        want_reason="InvalidResources",
        want_actions=("delete faq-r1-a1",),
        want_needs=Trust.LIVE_CHILDREN,
    ),
    Row(
        "the finished Jobs of a run that has its verdict stay as evidence",
        make_snapshot().ended("True", "Succeeded").seeing(prepare_child().complete(), train_child().complete()),
        want_status="True",
        want_reason="Succeeded",
    ),
    Row(
        "children of a later run than this view knows of are left alone",
        make_snapshot().ended("True", "Succeeded").seeing(train_child(run=2)),
        want_status="True",
        want_reason="Succeeded",
    ),
]

OBSTACLES = [
    Row(
        "a Job of another owner is a conflict",
        make_snapshot().training(created=False).seeing(train_child().owned_by("somebody")),
        want_reason="Conflict",
        want_message="not owned by this FineTuneJob. Delete it, or rename this job",
        want_requeue=60,
    ),
    Row(
        "a Job of nobody is a conflict",
        make_snapshot().training(created=False).seeing(train_child().owned_by(None)),
        want_reason="Conflict",
        want_requeue=60,
    ),
    Row(
        "a Job of ours from another configuration is a conflict",
        make_snapshot().training(created=False).seeing(train_child().hashed("other")),
        want_reason="Conflict",
        want_message="made from another configuration",
        want_requeue=60,
    ),
    Row(
        "a Job of a namesake that is going away is waited for",
        make_snapshot().training(created=False).seeing(train_child().owned_by("former").being_deleted()),
        want_reason="WaitingForPods",
        want_requeue=5,
    ),
    Row(
        "a refusal of the API server is told and tried again",
        make_snapshot()
        .training(created=False)
        .with_obstacle(Obstacle(ObstacleKind.REFUSED, "Job faq-r1-a1", "Forbidden: exceeded quota")),
        want_reason="ChildRefused",
        want_message="Job faq-r1-a1: Forbidden: exceeded quota",
        want_requeue=60,
    ),
]

PREPARING = ProgressRecord(run=1, attempt=1, activity="preparing", rows=12_000, rows_per_second=3_412.5, eta_seconds=90)

PROGRESS = [
    Row(
        "pulled progress is written",
        make_snapshot().training().seeing(train_child(), train_pod().running()).with_progress(progress_record(step=42)),
        want_reason="Training",
        want_fields={
            "checkpoint": {
                "step": 42,
                "uri": "s3://adapters/faq/.finetune/runs/u-r1/checkpoints/step-00000042",
                "time": "2026-01-01T00:05:00Z",
            },
            "progress": {
                "stage": "training",
                "display": "42/100 (42%)",
                "step": 42,
                "totalSteps": 100,
                "percent": 42,
                "epoch": "0.84",
                "loss": "1.2500",
                "tokensPerSecond": "512.2",
                "etaSeconds": 4000,
                "eta": "1h6m",
                "updatedAt": "2026-01-01T00:05:00Z",
            },
        },
    ),
    Row(
        "progress of the preparation is written",
        make_snapshot().preparing().seeing(prepare_child(), prepare_pod().running()).with_progress(PREPARING),
        want_reason="Preparing",
        want_fields={
            "progress": {
                "stage": "preparing",
                "display": "12,000 rows",
                "rows": 12_000,
                "rowsPerSecond": "3412.5",
                "etaSeconds": 90,
                "eta": "1m30s",
                "updatedAt": "2026-01-01T00:05:00Z",
            },
        },
    ),
    Row(
        "progress of the preparation is not taken for that of the training",
        make_snapshot().training().seeing(train_child(), train_pod().running()).with_progress(PREPARING),
        want_reason="Training",
        want_fields={"progress": None},
    ),
    Row(
        "and once an interval at most",
        make_snapshot()
        .training(progress={"stage": "training", "step": 40, "updatedAt": "2026-01-01T00:04:50Z"})
        .seeing(train_child(), train_pod().running())
        .with_progress(progress_record(step=42)),
        want_reason="Training",
        want_requeue=20,
        want_fields={"progress": {"stage": "training", "step": 40, "updatedAt": "2026-01-01T00:04:50Z"}},
    ),
    Row(
        "progress of a former attempt is not taken for that of this one",
        make_snapshot()
        .training(2)
        .seeing(train_child(2), train_pod(attempt=2).running())
        .with_progress(progress_record(step=42, attempt=1)),
        want_reason="Training",
        want_fields={"progress": None},
    ),
    Row(
        "progress that has not changed is not written",
        make_snapshot()
        .training(
            progress={**progress_block(progress_record(step=42)), "updatedAt": "2026-01-01T00:01:00Z"},
            checkpoint={"step": 42},
        )
        .seeing(train_child(), train_pod().running())
        .with_progress(progress_record(step=42)),
        want_reason="Training",
        want_fields={
            "progress": {**progress_block(progress_record(step=42)), "updatedAt": "2026-01-01T00:01:00Z"},
            "checkpoint": {"step": 42},
        },
    ),
    Row(
        "an older checkpoint does not replace a newer one",
        make_snapshot()
        .training(checkpoint={"step": 60})
        .seeing(train_child(), train_pod().running())
        .with_progress(progress_record(step=42, checkpoint_step=40)),
        want_reason="Training",
        want_fields={"checkpoint": {"step": 60}},
    ),
    Row(
        "a checkpoint of a pod that is being stopped is taken",
        make_snapshot(make_job().suspended()).training().seeing(train_pod().left(stopped_record(40)).terminating()),
        want_reason="Suspended",
        want_needs=Trust.LIVE_CHILDREN,
        want_events=("Suspended",),
        want_message="step 40",
    ),
    Row(
        "training that waits for the storage says so, once as an event",
        make_snapshot().training().seeing(train_child(), train_pod().running()).with_progress(WAITS),
        want_reason="WaitingForStorage",
        want_phase="Training",
        want_events=("WaitingForStorage",),
        want_message="cannot be stored: the bucket is full. It goes on by itself",
    ),
    Row(
        "training that still waits is no news",
        make_snapshot()
        .training(conditions=[{"type": "Succeeded", "status": "Unknown", "reason": "WaitingForStorage"}])
        .seeing(train_child(), train_pod().running())
        .with_progress(WAITS),
        want_reason="WaitingForStorage",
        want_phase="Training",
    ),
    Row(
        "the wait is over when the trainer says so",
        make_snapshot()
        .training(conditions=[{"type": "Succeeded", "status": "Unknown", "reason": "WaitingForStorage"}])
        .seeing(train_child(), train_pod().running())
        .with_progress(progress_record(step=42)),
        want_reason="Training",
        want_phase="Training",
    ),
    Row(
        "what a former attempt waited for is of no matter",
        make_snapshot().training(2).seeing(train_child(2), train_pod(attempt=2).running()).with_progress(WAITS),
        want_reason="Training",
    ),
    Row(
        "steps that a deleted pod could not save are reported, and the end does not count",
        make_snapshot()
        .training()
        .seeing(
            train_child().failed(),
            train_pod().left(failed_record(75, "StoppedWithoutSave", "steps 4 to 6 are not saved")).terminating(),
        ),
        want_reason="Starting",
        want_requeue=0,
        want_events=("AttemptStopped",),
        want_message="steps 4 to 6 are not saved",
        want_fields={"attempt": 2, "failures": None, "stops": 1},
    ),
    Row(
        "a record of a pod waits for the end of its Job",
        make_snapshot().training().seeing(train_child(), train_pod().left(trained_record())),
        want_reason="Training",
        want_fields={"progress": None},
    ),
]

ROWS = [
    *FIRST,
    *SPEC,
    *SKEW,
    *IMAGES,
    *ATTEMPTS,
    *PLACEMENT,
    *ENDS,
    *WAITING,
    *SUSPENSION,
    *RUNS,
    *OBSTACLES,
    *PROGRESS,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_decide(row: Row) -> None:
    plan = decide(row.snapshot.build())
    assert tuple(said(action) for action in plan.actions) == row.want_actions
    assert tuple(event.reason for event in plan.events) == row.want_events
    assert plan.needs == row.want_needs
    assert plan.requeue_after == row.want_requeue
    if row.want_reason is not None:
        assert (summary(plan)["status"], summary(plan)["reason"]) == (row.want_status, row.want_reason)
    assert row.want_message in summary(plan).get("message", "")
    if row.want_phase is not None:
        assert plan.status["phase"] == row.want_phase
    assert {name: plan.status.get(name) for name in row.want_fields} == row.want_fields


def _leads_on(row: Row) -> bool:
    """To another state, at once."""
    return bool(row.want_actions or row.want_events) or row.want_requeue == 0


@pytest.mark.parametrize("row", [row for row in ROWS if not _leads_on(row)], ids=lambda row: row.sentence)
def test_a_decision_is_at_rest(row: Row) -> None:
    """Taken again on its own result, it writes nothing new."""
    first = decide(row.snapshot.build())
    assert decide(row.snapshot.storing(first.status).build()).status == first.status


# --- from rule 1 to rule 2 of the run hash -----------------------------------------------------------------------
def in_each_phase() -> dict[str, SnapshotBuilder]:
    """As 0.1.0 left them."""
    suspended = make_snapshot(make_job().suspended())
    return {
        "preparing": make_snapshot().preparing().seeing(prepare_child(), prepare_pod().running()),
        "training": make_snapshot().training().seeing(train_child(), train_pod().running()),
        "succeeded": make_snapshot().ended("True", "Succeeded"),
        "failed": make_snapshot().ended("False", "InvalidRow"),
        "suspended": suspended.training(2, created=False, phase="Suspended"),
        "backing off": make_snapshot().training(2, created=False, nextAttemptTime="2026-01-01T00:05:30Z"),
        "waiting for a class": make_snapshot().with_classes().preparing(created=False),
    }


@pytest.mark.parametrize("phase", in_each_phase())
@pytest.mark.parametrize(
    ("edit", "want_same"),
    [
        pytest.param(lambda job: job, True, id="left alone"),
        pytest.param(lambda job: job.at_generation(2).with_retries(9), True, id="edited where it does not matter"),
        pytest.param(lambda job: job.at_generation(2).having("training.epochs", 9), False, id="edited where it does"),
    ],
)
def test_a_hash_of_0_1_0_is_compared_by_its_own_rule_and_written_anew(
    phase: str, edit: Callable[[JobBuilder], JobBuilder], want_same: bool
) -> None:
    snapshot = in_each_phase()[phase].with_hash_of_0_1_0()
    old = snapshot.build()
    edited = snapshot.with_job(edit).build()
    plan = decide(edited)
    if want_same:
        assert (plan.status["run"], plan.status["runHash"]) == (1, run_hash(edited.job.raw_spec))
        assert plan.actions == ()
        # The verdict or the wait is as it was before the upgrade.
        assert summary(plan)["reason"] == summary(decide(old))["reason"]
    else:
        assert plan.status["run"] == 2 or summary(plan)["reason"] == "Replacing"


def test_the_job_file_has_the_settings_that_stand_in_status() -> None:
    [create] = decide(make_snapshot().training(2, created=False, currentAttempt=LOST).build()).actions
    assert isinstance(create, Create)
    file = JobFile.parse(create.body["spec"]["template"]["metadata"]["annotations"][ANNOTATION_JOB_FILE])
    assert file.attempt == Attempt(number=2, reason="NodeLost", resume="newest", not_older_than_step=60)


@pytest.mark.parametrize(
    ("snapshot", "want"),
    [
        pytest.param(
            make_snapshot(newer()).training(2, created=False), {"Stalled", "Accepted"}, id="nothing is at work"
        ),
        pytest.param(
            make_snapshot(newer()).training().seeing(train_child(), train_pod().running()), {"Accepted"}, id="it trains"
        ),
        pytest.param(make_snapshot(newer()).ended("True", "Succeeded"), {"Stalled"}, id="it has its verdict"),
    ],
)
def test_an_unknown_field_shows_where_it_holds_something_up(snapshot: SnapshotBuilder, want: set[str]) -> None:
    plan = decide(snapshot.build())
    shown = {c["type"]: c["status"] for c in plan.status["conditions"] if c["reason"] == "UnknownField"}
    statuses = {"Stalled": "True", "Accepted": "Unknown"}
    assert {name: status for name, status in shown.items() if name != "Succeeded"} == {
        name: statuses[name] for name in want
    }


def test_a_message_about_an_unknown_field_ends_with_the_cure() -> None:
    plan = decide(make_snapshot(make_job().having("training." + "x" * 200, 1)).build())
    assert summary(plan)["message"].endswith("upgrade the operator.")


def test_an_upgraded_operator_takes_up_what_waited() -> None:
    trained = run_hash(make_job().build()["spec"])
    waited = make_snapshot(newer()).ended("True", "Succeeded").with_status(runHash=trained)
    status = decide(waited.build()).status
    understood = make_snapshot(newer(**{"training.unheardOf": None})).with_status(**status)
    assert decide(understood.build()).status["run"] == 2
