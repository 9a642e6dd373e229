"""The child of the current attempt exists: write down its uid. From then on its absence means that it was deleted."""

from finetune_operator.core.attempts import current_child
from finetune_operator.core.draft import Draft


def record_child(draft: Draft) -> Draft:
    job = current_child(draft)
    if job is None or draft.status.child:
        return draft
    return draft.update(child={"name": job.name, "uid": job.uid}, next_attempt_time="")
