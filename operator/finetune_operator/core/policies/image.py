"""Does the trainer image know the job files that this operator writes? One that said it does not gets no further
attempt: the next one follows when the admin has configured another image.
"""

from finetune_contract.termination import INVALID_JOB_FILE
from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import Raw

_LOOK_AGAIN_SECONDS = 300.0


def wait_for_image(draft: Draft) -> Draft:
    last = draft.status.history[0] if draft.status.history else {}
    if current_child(draft) is not None or last.get("reason") != INVALID_JOB_FILE or last["run"] != draft.status.run:
        return draft
    image = draft.snapshot.options.trainer_image
    if _image_of(draft, last) != image:
        return draft
    message = compose(
        f"Trainer image {image} does not understand the job file of this operator:",
        last["message"],
        f"Attempt {draft.number} starts once the operator is configured with a trainer image of its own version.",
    )
    waiting = draft.stall(INVALID_JOB_FILE, message).update(phase="Pending")
    return waiting.again(_LOOK_AGAIN_SECONDS).settle()


def _image_of(draft: Draft, end: Raw) -> str:
    """Of an attempt that has ended: its Job stays as evidence, and an older CRD drops the image from status."""
    stage = next(stage for stage in draft.snapshot.stages if stage.role == end["role"])
    job = draft.snapshot.job_named(stage.child_name(draft.snapshot.job.name, end["run"], end["attempt"]))
    return job.image if job is not None else str(end.get("image", ""))
