"""Has the child of the current attempt ended? Then what comes of it: the next stage, the next attempt, or the end."""

from dataclasses import replace
from typing import Any

from finetune_contract.termination import ArtifactResult, EvaluationResult, TerminationRecord
from finetune_operator.core.attempts import await_image, current_child, note_end, retry
from finetune_operator.core.classify import End, EndKind, classify
from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason, as_sentence
from finetune_operator.core.draft import Draft
from finetune_operator.core.memory import cures_of_running_out
from finetune_operator.core.objects import Role
from finetune_operator.core.outcomes import fail_run, succeed_run
from finetune_operator.core.plan import Event, Trust


def take_end(draft: Draft) -> Draft:
    job = current_child(draft)
    if job is None or job.end is None:
        return draft
    status = draft.status
    pods = draft.snapshot.pods_of(status.role, status.run, status.number)
    end = _with_cure(draft, classify(job.end, pods, status.role, job.memory_limit))
    # What an older view of the pods does not show may still be there.
    seen = draft if end.is_certain else draft.trusting(Trust.LIVE_CHILDREN)
    return _CONSEQUENCES[end.kind](seen, end)


def _with_cure(draft: Draft, end: End) -> End:
    """The trainer reports that the accelerator's memory is used up; what helps is said here."""
    if end.reason != Reason.ACCELERATOR_OUT_OF_MEMORY:
        return end
    cures = cures_of_running_out(draft.snapshot.job.readable_spec)
    return replace(end, message=f"{as_sentence(end.message)} What helps: {cures}.")


def _succeed(draft: Draft, end: End) -> Draft:
    record = end.record
    assert record is not None  # classify() finds success in a record only
    noted = note_end(draft, end, is_counted=False)
    return _prepared(noted, record) if draft.status.role is Role.PREPARE else _trained(noted, record)


def _fail(draft: Draft, end: End) -> Draft:
    noted = note_end(draft, end, is_counted=True).update(failures=draft.status.failures + 1)
    if draft.status.role is Role.PREPARE:
        noted = noted.condition(ConditionType.PREPARED, ConditionStatus.FALSE, end.reason, end.message)
    return fail_run(noted, end.reason, end.message)


_CONSEQUENCES = {
    EndKind.SUCCEEDED: _succeed,
    EndKind.FINAL: _fail,
    EndKind.COUNTED: retry,
    EndKind.UNCOUNTED: retry,
    EndKind.UNREADABLE: await_image,
}


# --- success ---------------------------------------------------------------------------------------------------
def _prepared(draft: Draft, record: TerminationRecord) -> Draft:
    result = record.prepared
    assert result is not None
    message = (
        f"{result.train_rows} rows to train on and {result.evaluation_rows} held out; {result.tokens} tokens, the "
        f"longest row has {result.longest_row}."
    )
    block = result.model_dump(by_alias=True)
    return (
        draft.update(prepared=block, child={}, stops=0, next_attempt_time="")
        .condition(ConditionType.PREPARED, ConditionStatus.TRUE, Reason.PREPARED, message)
        .summary(Reason.STARTING, "The data is prepared; training starts.", "Pending")
        .event(Event("Normal", "Prepared", message))
    )


def _trained(draft: Draft, record: TerminationRecord) -> Draft:
    artifact = record.artifact
    assert artifact is not None
    shown = draft.update(artifact=artifact.model_dump(by_alias=True), evaluation=_evaluation(record.evaluation))
    return succeed_run(shown, Reason.SUCCEEDED, _success_message(artifact))


def _success_message(artifact: ArtifactResult) -> str:
    size = f"{artifact.files} file(s), {artifact.bytes} bytes"
    return f"{size}, published and verified at {artifact.uri} ({artifact.digest})."


def _evaluation(result: EvaluationResult | None) -> dict[str, Any]:
    if result is None:
        return {}
    return {
        "rows": result.rows,
        "lossBefore": f"{result.loss_before:.4f}",
        "lossAfter": f"{result.loss_after:.4f}",
        "samples": [sample.model_dump(by_alias=True) for sample in result.samples],
    }
