"""Whatever others say, a message keeps what to do: the evidence is cut, and the cure is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from finetune_operator.core.conditions import MAX_MESSAGE, compose, truncated
from finetune_operator.core.decide import decide
from finetune_operator.core.plan import Plan
from finetune_operator.core.snapshot import Obstacle, ObstacleKind
from finetune_operator.events import MAX_MESSAGE as MAX_EVENT
from finetune_operator.events import render
from tests.builders.children import ChildBuilder, PodBuilder, prepare_child, prepare_pod, train_child, train_pod
from tests.builders.jobs import PRODUCT, make_class, make_job, make_node, make_t4
from tests.builders.records import failed_record
from tests.builders.snapshots import NOW, PREPARED, SnapshotBuilder, make_snapshot

LONG = "evidence " * 555
"""5,000 characters of somebody else."""
REFUSED = failed_record(3, "InvalidRow", f"{LONG[:1_150]}Set training.maxLength to 512.")
"""As a trainer says it: its record keeps 1,200 characters of a message."""


@dataclass(frozen=True)
class Row:
    sentence: str
    snapshot: SnapshotBuilder
    want_cure: str
    condition: str = "Succeeded"


def waiting(*seen: ChildBuilder | PodBuilder) -> SnapshotBuilder:
    return make_snapshot().training(phase="Pending").seeing(train_child(), *seen)


def ended(pod: PodBuilder, retries: int = 3) -> SnapshotBuilder:
    return make_snapshot(make_job().with_retries(retries)).training().seeing(train_child().failed(LONG), pod)


def on_strange_class(count: int) -> SnapshotBuilder:
    """A class with many terms, none of which any node meets."""
    values = [f"product-{index}" for index in range(100)]
    term = {"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": values}]}
    job = make_job().on_gpus("t4-16gb").on_nodes(count)
    return make_snapshot(job).with_classes(make_t4(nodeSelectorTerms=[term] * 5)).with_nodes(make_node("node-1"))


ROWS = [
    Row(
        "no class of that name, among many",
        make_snapshot(make_job().on_gpus("h100")).with_classes(*(make_class(f"{i}-" + 30 * "x") for i in range(150))),
        "Name one of these in spec.resources.gpuClass, or have an admin create it.",
    ),
    Row(
        "no matching node, while the data is being prepared",
        on_strange_class(1).preparing().seeing(prepare_child(), prepare_pod().running()),
        "Label the nodes, correct the GPUClass, add nodes, or choose another class.",
    ),
    Row(
        "no matching node, in the plan",
        on_strange_class(1).preparing().seeing(prepare_child(), prepare_pod().running()),
        "Label the nodes, correct the GPUClass, add nodes, or choose another class.",
        condition="Planned",
    ),
    Row(
        "no matching node, and the scheduler has much to say",
        on_strange_class(1).training().seeing(train_child(), train_pod().unschedulable(LONG)),
        "Label the nodes, correct the GPUClass, add nodes, or choose another class.",
    ),
    Row(
        "too few nodes",
        make_snapshot(make_job().on_nodes(3)).preparing().seeing(prepare_child(), prepare_pod().running()),
        "Add nodes, or lower spec.resources.nodes or gpusPerNode.",
    ),
    Row(
        "a model that does not fit",
        make_snapshot(make_job().on_gpus())
        .with_classes(make_t4())
        .training(created=False, attempt=0, prepared={**PREPARED, "parameters": 13_000_000_000}),
        "a smaller model.",
    ),
    Row(
        "unschedulable",
        waiting(train_pod().unschedulable(LONG)),
        "It waits until a node has room; lower spec.resources, or free or add nodes.",
    ),
    Row(
        "an image that cannot be pulled",
        waiting(train_pod().waiting("ImagePullBackOff", LONG)),
        "Check the operator's trainer image and its pull secret.",
    ),
    Row(
        "a container that does not start",
        waiting(train_pod().waiting("CreateContainerConfigError", LONG)),
        "check the Secret and the claims that the spec names.",
    ),
    Row(
        "a pod that an event explains",
        waiting(train_pod().waiting("ContainerCreating")).with_warning("FailedMount", LONG),
        "check the Secret and the claims that the spec names.",
    ),
    Row(
        "a Job without pods",
        waiting().with_warning("FailedCreate", LONG),
        "Check the quota of the namespace.",
    ),
    Row(
        "a child that the API server refuses",
        make_snapshot()
        .training(created=False)
        .with_obstacle(Obstacle(ObstacleKind.REFUSED, "Job faq-r1-a1", f"Invalid: {LONG}")),
        "change what the answer names (spec, quota or policy).",
    ),
    Row(
        "a child that is somebody else's",
        make_snapshot()
        .training(created=False)
        .with_obstacle(Obstacle(ObstacleKind.FOREIGN, "Job faq-r1-a1", f"owned by {LONG}")),
        "Delete it, or rename this job.",
    ),
    Row(
        "many earlier pods",
        make_snapshot().training(2, created=False).seeing(*(train_pod(i, 1).running() for i in range(200))),
        "Attempt 2 waits until earlier pods are gone:",
    ),
    Row(
        "the backoff",
        make_snapshot().training(
            2,
            created=False,
            nextAttemptTime="2026-01-01T00:05:30Z",
            history=[{"run": 1, "attempt": 1, "role": "train", "reason": "Crashed", "message": LONG}],
        ),
        "Attempt 2 starts at 2026-01-01T00:05:30Z.",
    ),
    Row(
        "the next attempt",
        ended(train_pod().ended(137).disrupted("EvictionByEvictionAPI", LONG)),
        "Attempt 2 follows.",
    ),
    Row(
        "the last retry",
        ended(train_pod().ended(1, message=LONG), retries=0),
        'kubectl annotate ftj faq --overwrite finetune.dev/restartedAt="$(date -Is)".',
    ),
    Row(
        "the last retry, as the Job controller tells it",
        make_snapshot(make_job().with_retries(0)).training().seeing(train_child().failed(LONG)),
        'kubectl annotate ftj faq --overwrite finetune.dev/restartedAt="$(date -Is)".',
    ),
    Row(
        "a full accelerator",
        ended(train_pod().left(failed_record(71, "OutOfMemory", LONG))),
        "a smaller model.",
    ),
    Row(
        "data that the trainer refuses",
        ended(train_pod().left(REFUSED)),
        "Set training.maxLength to 512.",
    ),
    Row(
        "data that the preparation refuses",
        make_snapshot().preparing().seeing(prepare_child().failed(), prepare_pod().left(REFUSED)),
        "Set training.maxLength to 512.",
        condition="Prepared",
    ),
]


def message_of(plan: Plan, type_: str) -> str:
    return next(str(each["message"]) for each in plan.status["conditions"] if each["type"] == type_)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_a_condition_keeps_its_cure(row: Row) -> None:
    message = message_of(decide(row.snapshot.build()), row.condition)
    assert len(message) <= MAX_MESSAGE
    assert row.want_cure in message


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_every_message_is_within_its_limit_and_the_event_of_a_failure_keeps_the_cure(row: Row) -> None:
    plan = decide(row.snapshot.build())
    assert all(len(condition["message"]) <= MAX_MESSAGE for condition in plan.status["conditions"])
    involved = {**make_job().build(), "status": plan.status}
    events = [render(involved, event, NOW, "replica")["message"] for event in plan.events]
    assert all(len(message) <= MAX_EVENT for message in events)
    assert row.want_cure in "".join(events) or not any(event.reason == "Failed" for event in plan.events)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_a_message_has_at_most_three_sentences_of_its_own(row: Row) -> None:
    message = message_of(decide(row.snapshot.build()), row.condition)
    assert 1 <= len(re.findall(r"[.!?](?=\s+[A-Z]|$)", message)) <= 3, message


@pytest.mark.parametrize(
    ("make", "want"),
    [
        pytest.param(lambda: compose("It broke:", "no room", "Add some."), "It broke: no room. Add some.", id="whole"),
        pytest.param(lambda: compose("It broke.", cure="Add some."), "It broke. Add some.", id="without evidence"),
        pytest.param(lambda: compose("It broke:", "no room"), "It broke: no room.", id="without a cure"),
        pytest.param(lambda: truncated("abcdefghij", 7), "abc…hij", id="the middle is cut"),
        pytest.param(lambda: truncated("short"), "short", id="what is short is left alone"),
    ],
)
def test_parts_become_one_message(make: Callable[[], str], want: str) -> None:
    assert make() == want
