"""Is the job paused by spec.suspend? Its Job is deleted, its pods save and end; the next attempt follows the resume.

A Job that has ended by itself is not stopped: its end was taken before.
"""

from finetune_operator.core.attempts import advance, current_child
from finetune_operator.core.conditions import Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import DeleteJob, Event, Trust
from finetune_operator.core.policies.attempt import set_up_attempt


def stop_for_suspend(draft: Draft) -> Draft:
    if not draft.snapshot.job.is_suspended:
        return draft
    job = current_child(draft)
    if job is not None:
        return _stop(draft, [] if job.is_being_deleted else [DeleteJob(job.name, job.uid)])
    if any(draft.snapshot.is_alive(pod) for pod in draft.snapshot.pods):
        return _stop(draft, [])
    return _suspended(draft)


def _stop(draft: Draft, deletions: list[DeleteJob]) -> Draft:
    stopping = draft.summary(Reason.SUSPENDING, "spec.suspend is true: the pods save their state and stop.")
    if deletions and not draft.snapshot.status.child:
        # Its uid goes into status first: deleted before that, the number would be used again on resume.
        return stopping.again(0).settle()
    return stopping.act(deletions, Trust.LIVE_JOB).again(5).settle()


def _suspended(draft: Draft) -> Draft:
    step = draft.status.checkpoint_step
    since = f"from the checkpoint of step {step}" if step else "from its last checkpoint, if it has one"
    message = f"spec.suspend is true. Set it to false, and the job resumes {since}."
    if draft.status.child:
        draft = set_up_attempt(advance(draft.trusting(Trust.LIVE_CHILDREN)))
    if draft.status.phase != "Suspended":
        draft = draft.event(Event("Normal", "Suspended", message))
    return draft.summary(Reason.SUSPENDED, message, "Suspended").settle()
