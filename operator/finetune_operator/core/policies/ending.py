"""Has the child of the current attempt ended? Then what comes of it: the next stage, the next attempt, or the end."""

from dataclasses import replace

from finetune_operator.core.attempts import await_image, current_child, note_end, retry
from finetune_operator.core.classify import End, classify
from finetune_operator.core.conditions import ConditionStatus, Reason, compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.memory import cures_of_running_out
from finetune_operator.core.outcomes import fail_run, succeed_run
from finetune_operator.core.plan import Event, Trust
from finetune_operator.core.stages import EndKind, Result, Stage


def take_end(draft: Draft) -> Draft:
    job = current_child(draft)
    if job is None or job.end is None:
        return draft
    end = _with_cure(draft, classify(job.end, draft.pods, draft.stage, job.memory_limit))
    # What an older view of the pods does not show may still be there.
    seen = draft if end.is_certain else draft.trusting(Trust.LIVE_CHILDREN)
    return _CONSEQUENCES[end.kind](seen, end)


def _with_cure(draft: Draft, end: End) -> End:
    """The trainer reports that the accelerator ran out of memory; what helps is said here."""
    if end.reason != Reason.ACCELERATOR_OUT_OF_MEMORY:
        return end
    cures = cures_of_running_out(draft.snapshot.job.readable_spec)
    return replace(end, message=compose("", end.message, f"What helps: {cures}."))


def _succeed(draft: Draft, end: End) -> Draft:
    stage = draft.stage
    result = stage.result(end.record) if end.record is not None else None
    assert result is not None  # classify() finds success in a record of this stage only
    done = note_end(draft, end, is_counted=False).update(**result.status)
    if stage.condition is not None:
        done = done.condition(stage.condition, ConditionStatus.TRUE, stage.passed, result.message)
    if all(other.is_done(done.status) for other in done.snapshot.stages):
        return succeed_run(done, Reason.SUCCEEDED, result.message)
    return _go_on(done, stage, result)


def _go_on(draft: Draft, passed: Stage, result: Result) -> Draft:
    """To the next stage."""
    following = draft.stage
    failures = 0 if following.has_own_retries else draft.status.failures
    return (
        draft.update(child={}, stops=0, failures=failures, next_attempt_time="")
        .summary(following.pending.reason, following.pending.message, following.pending.phase)
        .event(Event("Normal", passed.passed, result.message))
    )


def _fail(draft: Draft, end: End) -> Draft:
    noted = note_end(draft, end, is_counted=True).update(failures=draft.status.failures + 1)
    condition = draft.stage.condition
    if condition is not None:
        noted = noted.condition(condition, ConditionStatus.FALSE, end.reason, end.message)
    return fail_run(noted, end.reason, end.message)


_CONSEQUENCES = {
    EndKind.SUCCEEDED: _succeed,
    EndKind.FINAL: _fail,
    EndKind.COUNTED: retry,
    EndKind.UNCOUNTED: retry,
    EndKind.UNREADABLE: await_image,
}
