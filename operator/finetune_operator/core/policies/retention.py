"""Which children have no place any more? Jobs of earlier runs, and unfinished ones that nobody waits for: those that
are not the current attempt, or belong to a run that has its verdict.

Finished Jobs of earlier attempts of this run stay as evidence, and go with the FineTuneJob.
"""

from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import ChildJob
from finetune_operator.core.plan import DeleteJob, Trust
from finetune_operator.core.snapshot import Snapshot


def remove_strays(draft: Draft) -> Draft:
    snapshot = draft.snapshot
    ours = [job for job in snapshot.jobs if snapshot.owns(job) and not job.is_being_deleted]
    # An older view may show a Job as unfinished that has become evidence.
    draft = _delete(draft, [job for job in ours if _is_of_earlier_run(job, snapshot)], Trust.LIVE_JOB)
    return _delete(draft, [job for job in ours if _is_stray(job, snapshot)], Trust.LIVE_CHILDREN)


def _delete(draft: Draft, jobs: list[ChildJob], needs: Trust) -> Draft:
    return draft.act([DeleteJob(job.name, job.uid) for job in jobs], needs)


def _is_of_earlier_run(job: ChildJob, snapshot: Snapshot) -> bool:
    return job.run < snapshot.status.run


def _is_stray(job: ChildJob, snapshot: Snapshot) -> bool:
    """By the status as stored: a new number counts once it is written down. A later run than that of the status means
    that the status was lost, or that this view of it is old."""
    status = snapshot.status
    if job.run != status.run or job.is_finished:
        return False
    stage = snapshot.stage
    number = stage.number_in(status)
    current = stage.child_name(snapshot.job.name, status.run, number)
    return status.is_final or (number > 0 and job.name != current)
