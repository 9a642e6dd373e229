"""The files that cross between operator and trainer, from both sides and across versions.

The golden files are what a released version wrote: those of version 1 are 0.1.0's and never change. A test that fails
here is an incompatible change: raise CONTRACT_VERSION and read the former version as well, or give the new field a
default.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_contract import names
from finetune_contract.exitcodes import ExitCode
from finetune_contract.jobspec import CONTRACT_VERSION, Attempt, JobFile, Lora, Method, Training
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import MAX_BYTES, EvaluationResult, SampleAnswer, TerminationRecord
from finetune_operator.core.objects import FineTuneJob, GpuClass
from finetune_operator.core.render.child import Child
from finetune_operator.core.render.jobfile import render_job_file
from finetune_operator.core.spec import Spec
from finetune_operator.core.stages import PREPARE, STAGES, TRAIN, Stage
from finetune_operator.core.world import plan_world
from tests.builders.jobs import make_class, make_job
from tests.builders.records import prepared_record, stopped_record, trained_record
from tests.builders.snapshots import OPTIONS, PREPARED

FOLDER = Path(__file__).parent / "golden"


def golden(name: str) -> str:
    return (FOLDER / name).read_text()


ATTEMPTS = {
    PREPARE.role: Attempt(number=2, reason="StorageUnavailable", resume="none"),
    TRAIN.role: Attempt(number=2, reason="NodeLost", resume="newest", not_older_than_step=40),
}


def rendered(stage: Stage, job: FineTuneJob | None = None) -> str:
    job, gpu_class = job or FineTuneJob(make_job().build()), GpuClass.parse(make_class("cpu"))
    return render_job_file(
        Child(
            job=job,
            stage=stage,
            run=1,
            config_hash="v2:0123456789abcdef",
            world=plan_world(job.spec.resources, gpu_class),
            options=OPTIONS,
            gpu_class=gpu_class,
            attempt=ATTEMPTS[stage.role],
            prepared=PREPARED if stage is TRAIN else {},
        )
    )


# --- the job file --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_the_operator_writes_the_file_that_is_released(stage: Stage) -> None:
    assert rendered(stage) + "\n" == golden(f"job-{stage.role}-v{CONTRACT_VERSION}.json")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_the_trainer_reads_the_file_that_is_released(stage: Stage) -> None:
    text = golden(f"job-{stage.role}-v{CONTRACT_VERSION}.json")
    assert JobFile.parse(text).render() + "\n" == text


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_the_trainer_reads_a_file_of_0_1_0(stage: Stage) -> None:
    """Of a pod that starts again under a newer image, or an operator that is rolled back."""
    old, new = JobFile.parse(golden(f"job-{stage.role}-v1.json")), JobFile.parse(golden(f"job-{stage.role}-v2.json"))
    assert old.identity == new.identity.model_copy(update={"config_hash": "0123456789abcdef"})
    assert old.attempt == Attempt(number=2, reason="NotRecorded", resume="newest")
    assert (old.spec, old.world, old.prepared) == (new.spec, new.world, new.prepared)


@pytest.mark.parametrize("text", ['{"version": 1}', '{"version": 1, "spec": 3, "identity": []}', "[1]", "{", "1"])
def test_what_is_no_job_file_is_refused_as_one(text: str) -> None:
    with pytest.raises(ValidationError):
        JobFile.parse(text)


def test_a_field_of_the_operators_spec_stays_with_the_operator() -> None:
    """Added at any depth, it reaches the trainer only when render/jobfile.py and the contract name it."""

    class PlacedLora(Lora):
        secret_of_operator: int = 1

    class PlacedMethod(Method):
        lora: PlacedLora | None = None

    class PacedTraining(Training):
        secret_of_operator: int = 2

    class Newer(Spec):
        method: PlacedMethod
        training: PacedTraining
        secret_of_operator: int = 3

    raw = make_job().having("training.secretOfOperator", 7).having("method.lora.secretOfOperator", 7).build()
    job = FineTuneJob(raw)
    job.__dict__["spec"] = Newer.parse(raw["spec"])
    assert job.spec.method.model_dump()["lora"]["secret_of_operator"] == 7
    assert rendered(TRAIN, job) == rendered(TRAIN)


def test_what_only_the_operator_reads_is_not_in_the_file() -> None:
    spec = json.loads(rendered(TRAIN))["spec"]
    assert {"suspend", "retries", "resources"}.isdisjoint(spec)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        pytest.param({"version": 3}, "version", id="a file of a newer contract is refused"),
        pytest.param({"surprise": 1}, "surprise", id="a setting that does nothing is refused"),
    ],
)
@pytest.mark.parametrize("name", ["job-train-v1.json", "job-train-v2.json"])
def test_a_file_that_would_be_misread_is_refused(change: dict[str, Any], want: str, name: str) -> None:
    text = json.dumps({**json.loads(golden(name)), **change})
    with pytest.raises(ValidationError, match=want):
        JobFile.parse(text)


def test_the_longest_file_that_the_crd_allows_fits_an_annotation() -> None:
    sources = [{"source": "s3://data/" + "x" * 500}] * 32
    job = make_job().having("dataset.train", sources).having("method.lora.targets", ["t" * 128] * 64)
    assert len(rendered(TRAIN, FineTuneJob(job.build()))) < 40_000


# --- the termination record ----------------------------------------------------------------------------------
RECORDS = {
    "termination-prepared-v1.json": prepared_record(),
    "termination-trained-v1.json": trained_record(),
    "termination-stopped-v1.json": stopped_record(40),
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_trainer_writes_the_record_that_is_released(name: str) -> None:
    assert json.loads(RECORDS[name].render()) == json.loads(golden(name))


@pytest.mark.parametrize("name", RECORDS)
def test_the_operator_reads_the_record_that_is_released(name: str) -> None:
    assert TerminationRecord.parse(golden(name)) == RECORDS[name]


def test_a_newer_record_is_read_by_what_is_known_of_it() -> None:
    newer = json.loads(golden("termination-trained-v1.json"))
    newer |= {"version": 2, "surprise": {"a": 1}}
    newer["artifact"]["surprise"] = newer["progress"]["surprise"] = 1
    assert TerminationRecord.parse(json.dumps(newer)) == trained_record().model_copy(update={"version": 2})


def test_an_older_record_is_read_without_what_came_later() -> None:
    older = {"role": "train", "exitCode": 85, "reason": "Stopped", "message": "saved"}
    record = TerminationRecord.parse(json.dumps(older))
    assert record is not None
    assert (record.code, record.progress, record.artifact) == (ExitCode.STOPPED_AFTER_SAVE, None, None)


@pytest.mark.parametrize("text", [None, "", "killed", "{}", '{"role": "train"}', "[1]", '"text"'])
def test_what_is_not_a_record_is_none(text: str | None) -> None:
    assert TerminationRecord.parse(text) is None


def test_a_code_that_the_contract_does_not_know_has_no_meaning() -> None:
    assert TerminationRecord(role="train", exit_code=1, reason="Bug", message="").code is None


def test_a_record_always_fits_the_kubelets_limit() -> None:
    sample = SampleAnswer(question="q" * 3000, expected="e" * 3000, before="b" * 3000, after="ä" * 3000)
    evaluation = EvaluationResult(rows=1, loss_before=1.0, loss_after=0.5, samples=(sample,) * 16)
    record = trained_record().model_copy(update={"message": "m" * 9000, "evaluation": evaluation})
    data = record.render()
    assert len(data) <= MAX_BYTES
    parsed = TerminationRecord.parse(data.decode())
    assert parsed is not None
    assert parsed.artifact == record.artifact


# --- the progress record -------------------------------------------------------------------------------------
def test_the_operator_reads_the_progress_that_is_released() -> None:
    record = ProgressRecord.model_validate_json(golden("progress-v1.json"))
    assert (record.activity, record.step, record.checkpoint_step) == ("training", 42, 40)
    assert json.loads(record.model_dump_json(by_alias=True, exclude_none=True)) == json.loads(
        golden("progress-v1.json")
    )


def test_newer_progress_is_read_by_what_is_known_of_it() -> None:
    newer = {**json.loads(golden("progress-v1.json")), "surprise": 1}
    assert ProgressRecord.model_validate(newer).step == 42


# --- names ---------------------------------------------------------------------------------------------------
def test_the_longest_name_of_a_pod_is_a_host_name() -> None:
    job = names.attempt_name("x" * 40, run=9_999, attempt=999)
    assert len(f"{job}-255") <= 63
