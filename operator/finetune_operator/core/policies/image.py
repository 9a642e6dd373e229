"""Does the trainer image know the job files that this operator writes? One that said it does not gets no further
attempt: the next one follows when the admin has configured another image.
"""

from finetune_contract.termination import INVALID_JOB_FILE
from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import as_sentence
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import Raw, Role
from finetune_operator.core.render.child import child_name

_LOOK_AGAIN_SECONDS = 300.0


def wait_for_image(draft: Draft) -> Draft:
    last = draft.status.history[0] if draft.status.history else {}
    if current_child(draft) is not None or last.get("reason") != INVALID_JOB_FILE or last["run"] != draft.status.run:
        return draft
    image = draft.snapshot.options.trainer_image
    if _image_of(draft, last) != image:
        return draft
    message = (
        f"Trainer image {image} does not understand the job file of this operator: {as_sentence(last['message'])} "
        f"Attempt {draft.status.number} starts when the operator is given a trainer image of its own version."
    )
    waiting = draft.stall(INVALID_JOB_FILE, message).update(phase="Pending")
    return waiting.again(_LOOK_AGAIN_SECONDS).settle()


def _image_of(draft: Draft, end: Raw) -> str:
    """Of an attempt that has ended: its Job stays as evidence, and an older CRD drops the image from status."""
    name = child_name(draft.snapshot.job.name, Role(end["role"]), end["run"], end["attempt"])
    job = draft.snapshot.job_named(name)
    return job.image if job is not None else str(end.get("image", ""))
