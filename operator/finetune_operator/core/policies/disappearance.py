"""Was the child of the current attempt deleted by somebody else? Then the attempt is lost, and does not count."""

from finetune_operator.core.attempts import current_name, is_written_down, retry
from finetune_operator.core.classify import End
from finetune_operator.core.conditions import Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import Trust
from finetune_operator.core.stages import EndKind


def take_loss(draft: Draft) -> Draft:
    recorded = draft.status.child
    if not recorded or not is_written_down(draft):
        return draft
    job = draft.snapshot.job_named(current_name(draft))
    if job is not None and job.uid == recorded.get("uid") and not job.is_being_deleted:
        return draft
    message = f"Job {recorded.get('name')} was deleted before it ended."
    return retry(draft.trusting(Trust.LIVE_CHILDREN), End(EndKind.UNCOUNTED, Reason.CHILD_LOST, message))
