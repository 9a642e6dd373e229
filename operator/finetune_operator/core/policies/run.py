"""Which run is this? Starts the first one, and a new one when a training-relevant field or restartedAt changed.

Only a change of generation can make a new run: an upgrade of the CRD may change what is read, and nobody asked for it.
"""

from dataclasses import replace

from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.identity import is_current_rule, is_same_run, run_hash
from finetune_operator.core.objects import ChildJob
from finetune_operator.core.plan import DeleteJob, Trust
from finetune_operator.core.snapshot import Snapshot
from finetune_operator.core.status import Status
from finetune_operator.core.timestamps import format_time


def start_run(draft: Draft) -> Draft:
    snapshot, status = draft.snapshot, draft.status
    if status.run == 0:
        return _begin(draft, 1)
    if not is_new_run_wanted(snapshot):
        return _with_current_hash(draft)
    if not status.is_final and (_unfinished(snapshot) or _alive(snapshot)):
        return _stop_old_run(draft)
    # Rests on the absence of live pods, unless the old run came to its end by itself.
    return _begin(draft.trusting(Trust.CACHE if status.is_final else Trust.LIVE_CHILDREN), status.run + 1)


def is_new_run_wanted(snapshot: Snapshot) -> bool:
    status, job = snapshot.status, snapshot.job
    if job.restarted_at and job.restarted_at != status.restarted_at:
        return True
    return job.generation != status.observed_generation and not is_same_run(status.run_hash, job.raw_spec)


def _with_current_hash(draft: Draft) -> Draft:
    """A hash of 0.1.0 is written anew once it is known to stand for this spec. A child that carries the old one, and
    whose uid is not yet in status, is recorded in the same write: afterwards nothing would tell that it is ours."""
    status, spec = draft.status, draft.snapshot.job.raw_spec
    if is_current_rule(status.run_hash) or not is_same_run(status.run_hash, spec):
        return draft
    renewed = draft.update(run_hash=run_hash(spec))
    return renewed if status.is_final or status.child else renewed.trusting(Trust.LIVE_CHILDREN)


def _begin(draft: Draft, run: int) -> Draft:
    """Everything but the history starts anew, and so do the conditions: P3 holds per run."""
    status = Status(
        run=run,
        run_hash=run_hash(draft.snapshot.job.raw_spec),
        restarted_at=draft.snapshot.job.restarted_at,
        start_time=format_time(draft.snapshot.now),
        history=draft.status.history,
    )
    begun = replace(draft, status=status)
    return begun.condition(
        ConditionType.PREPARED, ConditionStatus.UNKNOWN, Reason.PREPARING, "The data has not been prepared yet."
    )


def _stop_old_run(draft: Draft) -> Draft:
    snapshot = draft.snapshot
    deletions = [DeleteJob(job.name, job.uid) for job in _unfinished(snapshot) if not job.is_being_deleted]
    message = (
        f"The pods of run {draft.status.run} are being stopped; run {draft.status.run + 1} starts when they are gone."
    )
    stopping = draft.act(deletions, Trust.LIVE_JOB).summary(Reason.REPLACING, message)
    return replace(stopping, observes_generation=False).again(5).settle()


def _unfinished(snapshot: Snapshot) -> list[ChildJob]:
    return [job for job in snapshot.jobs if snapshot.owns(job) and not job.is_finished]


def _alive(snapshot: Snapshot) -> bool:
    return any(snapshot.is_alive(pod) for pod in snapshot.pods)
