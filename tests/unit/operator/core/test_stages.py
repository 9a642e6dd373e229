"""A third stage is one entry: a toy evaluation, from the end of training to Succeeded, without a change of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import EvaluationResult, TerminationRecord
from finetune_operator.core.conditions import Reason
from finetune_operator.core.decide import decide
from finetune_operator.core.objects import Raw
from finetune_operator.core.plan import Create, Plan
from finetune_operator.core.snapshot import Snapshot
from finetune_operator.core.stages import EXITS, STAGES, Activity, EndKind, Result, Shape, Stage
from finetune_operator.core.status import Status
from tests.builders.children import ChildBuilder, PodBuilder, train_child, train_pod
from tests.builders.jobs import make_job
from tests.builders.records import failed_record, trained_record
from tests.builders.snapshots import SnapshotBuilder, make_snapshot


@dataclass(frozen=True)
class EvaluatedStatus(Status):
    evaluate_attempt: int = 0
    verdict: Raw = field(default_factory=dict)


def _verdict(record: TerminationRecord) -> Result | None:
    if record.evaluation is None or record.artifact is not None:
        return None
    return Result({"verdict": {"gate": "Passed"}}, "The gate is passed.")


EVALUATE = Stage(
    role="evaluate",
    work="the evaluation",
    child_name=lambda job, run, number: f"{job}-r{run}-e{number}",
    number="evaluate_attempt",
    block="verdict",
    result=_verdict,
    passed="Evaluated",
    pending=Activity("Evaluating", Reason.STARTING, "The adapter is published; its evaluation starts."),
    active=Activity("Evaluating", Reason.STARTING, "Evaluation {number} is at work."),
    shape=Shape(is_gang=False, needs_class=False),
    requests=lambda spec: {"cpu": "2", "memory": "3Gi"},
    exits={**EXITS, ExitCode.DIVERGED: EndKind.COUNTED},
    has_own_retries=True,
    is_wanted=lambda spec: spec["evaluation"]["sampleAnswers"] > 0,
)
EVALUATED = TerminationRecord(
    role="train",
    exit_code=0,
    reason="Evaluated",
    message="passed",
    evaluation=EvaluationResult(rows=100, loss_before=2.5, loss_after=1.25),
)


def evaluated(builder: SnapshotBuilder) -> Snapshot:
    snapshot = builder.build()
    status = EvaluatedStatus.parse(snapshot.job.raw_status)
    return replace(snapshot, status=status, all_stages=(*STAGES, EVALUATE))


def at(status: Mapping[str, Any], *seen: ChildBuilder | PodBuilder) -> Plan:
    return decide(evaluated(make_snapshot(make_job().with_retries(1)).storing(status).seeing(*seen)))


def summary(plan: Plan) -> tuple[str, str]:
    [condition] = [each for each in plan.status["conditions"] if each["type"] == "Succeeded"]
    return condition["status"], condition["reason"]


def child(number: int = 1) -> ChildBuilder:
    return ChildBuilder(EVALUATE, number, 1)


def pod(number: int = 1) -> PodBuilder:
    return PodBuilder(EVALUATE, number, 1, 0)


def test_a_third_stage_goes_from_the_end_of_training_to_success() -> None:
    trained = make_snapshot(make_job().with_retries(1)).training(failures=1)
    plan = decide(evaluated(trained.seeing(train_child().complete(), train_pod().left(trained_record()))))
    assert summary(plan) == ("Unknown", "Starting")
    assert plan.status["phase"] == "Evaluating"
    assert [event.reason for event in plan.events] == ["Trained"]
    assert plan.status["evaluateAttempt"] == 1
    assert plan.status["artifact"]["uri"].startswith("s3://")
    assert "failures" not in plan.status  # those of the training are not at its expense

    plan = at(plan.status)
    [create] = plan.actions
    assert isinstance(create, Create)
    body = create.body
    assert body["metadata"]["name"] == "faq-r1-e1"
    assert "completionMode" not in body["spec"]
    [container] = body["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["evaluate"]
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}

    plan = at(plan.status, child(), pod().running())
    assert plan.status["child"]["name"] == "faq-r1-e1"
    [message] = [each["message"] for each in plan.status["conditions"] if each["type"] == "Succeeded"]
    assert message == "Evaluation 1 is at work."

    plan = at(plan.status, child().failed(), pod().left(failed_record(72, "Diverged", "no number")))
    assert (plan.status["attempt"], plan.status["evaluateAttempt"], plan.status["failures"]) == (1, 2, 1)
    assert summary(plan) == ("Unknown", "BackingOff")
    assert plan.status["history"][0]["role"] == "evaluate"

    waited = {name: value for name, value in plan.status.items() if name != "nextAttemptTime"}
    plan = at(waited, child(1).failed(), child(2).complete(), pod(2).left(EVALUATED))
    assert summary(plan) == ("True", "Succeeded")
    assert plan.status["phase"] == "Succeeded"
    assert plan.status["verdict"] == {"gate": "Passed"}
    assert plan.status["attempt"] == 1


def test_a_job_that_does_not_want_the_stage_ends_without_it() -> None:
    job = make_job().having("evaluation", {"sampleAnswers": 0})
    trained = make_snapshot(job).training().seeing(train_child().complete(), train_pod().left(trained_record()))
    assert summary(decide(evaluated(trained))) == ("True", "Succeeded")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_every_code_of_the_contract_has_its_meaning_in_every_stage(stage: Stage) -> None:
    assert set(EXITS) == set(ExitCode)
    assert [code for code in ExitCode if stage.means(code) is EndKind.FINAL] == [2, 3, 4, 71, 72]
    assert stage.means(None) is EndKind.COUNTED
