"""Termination and progress records as the trainer leaves them."""

from typing import Any

from finetune_contract.exitcodes import ExitCode
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import ArtifactResult, EvaluationResult, PreparedResult, TerminationRecord


def prepared_record(**changes: Any) -> TerminationRecord:
    result = PreparedResult(
        uri="s3://adapters/faq/.finetune/prepared/abc",
        digest="sha256:abc",
        train_rows=900,
        evaluation_rows=100,
        tokens=50_000,
        supervised_tokens=20_000,
        longest_row=312,
        parameters=135_000_000,
    )
    return TerminationRecord(
        role="prepare",
        exit_code=0,
        reason="Prepared",
        message="900 rows",
        prepared=result.model_copy(update=changes),
    )


def progress_record(step: int = 100, attempt: int = 1, **changes: Any) -> ProgressRecord:
    record = ProgressRecord(
        run=1,
        attempt=attempt,
        activity="training",
        step=step,
        total_steps=100,
        epoch=step / 50,
        loss=1.25,
        tokens_per_second=512.25,
        eta_seconds=4_000,
        checkpoint_step=step or None,
        checkpoint_uri=f"s3://adapters/faq/.finetune/runs/u-r1/checkpoints/step-{step:08d}" if step else None,
    )
    return record.model_copy(update=changes)


def trained_record(attempt: int = 1) -> TerminationRecord:
    return TerminationRecord(
        role="train",
        exit_code=0,
        reason="Succeeded",
        message="published and verified",
        progress=progress_record(attempt=attempt, activity="done", eta_seconds=0),
        artifact=ArtifactResult(uri="s3://adapters/faq/faq-r1-uid", digest="sha256:def", bytes=4096, files=5),
        evaluation=EvaluationResult(rows=100, loss_before=2.5, loss_after=1.25),
    )


def failed_record(code: int, reason: str, message: str, *, role: str = "train", step: int = 0) -> TerminationRecord:
    return TerminationRecord.model_validate(
        {"role": role, "exitCode": code, "reason": reason, "message": message}
        | ({"progress": progress_record(step=step)} if step else {})
    )


def stopped_record(step: int, attempt: int = 1) -> TerminationRecord:
    """85: stopped on request after a verified save."""
    return TerminationRecord(
        role="train",
        exit_code=ExitCode.STOPPED_AFTER_SAVE,
        reason="Stopped",
        message=f"stopped on request after step {step}",
        progress=progress_record(step=step, attempt=attempt),
    )
