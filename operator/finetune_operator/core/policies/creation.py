"""May the child of the current attempt be created, and what stands in its way?

Number into status first, the Job in the next reconcile: created before it is written down, a crash plus a deleted
child would use the number again.
"""

from finetune_operator.core.attempts import current_child, current_name, is_written_down
from finetune_operator.core.conditions import Reason, compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import Create, Trust
from finetune_operator.core.render.child import Child
from finetune_operator.core.render.job import render_job
from finetune_operator.core.render.service import render_service
from finetune_operator.core.snapshot import Obstacle, ObstacleKind
from finetune_operator.core.timestamps import parse_time
from finetune_operator.core.world import plan_world

_LOOK_AGAIN_SECONDS = 60


def number_attempt(draft: Draft) -> Draft:
    """The first of its stage."""
    return draft if draft.number else draft.numbered(1)


def wait_for_backoff(draft: Draft) -> Draft:
    due = parse_time(draft.status.next_attempt_time)
    if due is None:
        return draft
    wait = (due - draft.snapshot.now).total_seconds()
    longest = 2 * draft.snapshot.options.backoff_max_seconds
    if wait <= 0 or wait > longest:  # Written by an operator whose clock was ahead.
        return draft
    last = draft.status.history[0] if draft.status.history else {}
    message = compose(
        f"The previous attempt failed ({last.get('reason', 'unknown')}):",
        last.get("message", ""),
        f"Attempt {draft.number} starts at {draft.status.next_attempt_time}.",
    )
    return draft.summary(Reason.BACKING_OFF, message, "Pending").again(wait).settle()


def wait_for_earlier_pods(draft: Draft) -> Draft:
    """Two attempts must not run at once. Pods of this very attempt without its Job count as well: the Job was
    deleted before its uid was written down."""
    if current_child(draft) is not None:
        return draft
    alive = [pod.name for pod in draft.snapshot.pods if draft.snapshot.is_alive(pod)]
    if not alive:
        return draft
    message = compose(f"Attempt {draft.number} waits until earlier pods are gone:", ", ".join(alive))
    return draft.summary(Reason.WAITING_FOR_PODS, message, "Pending").again(5).settle()


def create_child(draft: Draft) -> Draft:
    if current_child(draft) is not None:
        return draft
    if not is_written_down(draft):
        return _announced(draft).again(0).settle()
    obstacle = draft.snapshot.obstacle or _foreign(draft)
    if obstacle is not None:
        return _blocked(draft, obstacle).settle()
    child = _child(draft)
    bodies = [render_service(child, child.service)] if child.service else []
    is_first = draft.status.run == 1 and draft.number == 1
    needs = Trust.LIVE_JOB if is_first else Trust.LIVE_CHILDREN
    return draft.act([Create(body) for body in (*bodies, render_job(child))], needs).settle()


def _announced(draft: Draft) -> Draft:
    """A run that has just begun has no summary yet."""
    if draft.status.phase:
        return draft
    pending = draft.stage.pending
    return draft.summary(pending.reason, pending.message, pending.phase)


def _child(draft: Draft) -> Child:
    status, snapshot = draft.status, draft.snapshot
    resources = snapshot.job.spec.resources
    gpu_class = snapshot.gpu_class(resources.gpu_class)
    assert gpu_class is not None  # plan_placement has settled without one
    return Child(
        job=snapshot.job,
        stage=draft.stage,
        run=status.run,
        config_hash=status.run_hash,
        world=plan_world(resources, gpu_class, snapshot.options.allow_cpu_for_gpu),
        options=snapshot.options,
        gpu_class=gpu_class,
        attempt=status.attempt_settings,
        prepared=status.prepared,
    )


# --- obstacles -------------------------------------------------------------------------------------------------
def _foreign(draft: Draft) -> Obstacle | None:
    job = draft.snapshot.job_named(current_name(draft))
    if job is None:
        return None
    if job.is_being_deleted:
        return Obstacle(ObstacleKind.LEFT_OVER, f"Job {job.name}", "it is being deleted")
    owner = "made from another configuration" if draft.snapshot.owns(job) else "not owned by this FineTuneJob"
    return Obstacle(ObstacleKind.FOREIGN, f"Job {job.name}", owner)


def _blocked(draft: Draft, obstacle: Obstacle) -> Draft:
    if obstacle.kind is ObstacleKind.LEFT_OVER:
        message = (
            f"{obstacle.child} of a deleted object of this name still exists: {obstacle.detail}. "
            "The attempt starts when it is gone."
        )
        return draft.summary(Reason.WAITING_FOR_PODS, message, "Pending").again(5)
    if obstacle.kind is ObstacleKind.REFUSED:
        message = compose(
            f"The API server refuses {obstacle.child}:",
            obstacle.detail,
            "It is tried again every minute; change what the answer names (spec, quota or policy).",
        )
        return draft.summary(Reason.CHILD_REFUSED, message, "Pending").again(_LOOK_AGAIN_SECONDS)
    message = compose(f"{obstacle.child} already exists and is {obstacle.detail}. Delete it, or rename this job.")
    return draft.stall(Reason.CONFLICT, message).again(_LOOK_AGAIN_SECONDS)
