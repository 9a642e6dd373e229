"""Which children have no place any more? Jobs of former runs, and unfinished ones that are not the current attempt.

Finished Jobs of former attempts of this run stay as evidence, and go with the FineTuneJob.
"""

from finetune_operator.core.draft import Draft
from finetune_operator.core.model import ChildJob
from finetune_operator.core.plan import DeleteJob, Trust
from finetune_operator.core.render.child import child_name
from finetune_operator.core.snapshot import Snapshot


def remove_strays(draft: Draft) -> Draft:
    snapshot = draft.snapshot
    strays = [
        job for job in snapshot.jobs if snapshot.owns(job) and not job.is_being_deleted and _is_stray(job, snapshot)
    ]
    return draft.act([DeleteJob(job.name, job.uid) for job in strays], Trust.LIVE_JOB)


def _is_stray(job: ChildJob, snapshot: Snapshot) -> bool:
    """By the status as stored: a new number counts once it is written down."""
    status = snapshot.status
    if status.run == 0 or job.run > status.run:
        return False  # The status was lost, or this view of it is old.
    if job.run < status.run:
        return True
    current = child_name(snapshot.job.name, status.role, status.run, status.number)
    return not job.is_finished and job.name != current and status.number > 0
