"""The child is there and has not ended: what is it doing, or what does it wait for? In the pods' own words, with the
next step for the user. Nothing here is final: what is fixed resumes by itself.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import Condition, ConditionStatus, ConditionType, Reason, compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import ChildJob, Pod
from finetune_operator.core.plan import Event
from finetune_operator.core.policies.reporting import current_progress
from finetune_operator.core.stages import Stage

_IMAGE_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_NOT_STARTING = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
_LONGEST_WAIT_SECONDS = 300.0
_CURE_OF_WAITING = "It goes on by itself once the storage takes it; check the bucket, its quota, and the keys."


@dataclass(frozen=True)
class _Trouble:
    reason: str
    message: str


def explain_child(draft: Draft) -> Draft:
    job, pods = current_child(draft), draft.pods
    assert job is not None  # create_child settles without one
    trouble = next((found for pod in pods if (found := _reported_by_pod(draft, pod)) is not None), None)
    if trouble is None:
        draft, trouble = _reported_by_events(draft, job, pods)
    if trouble is not None:
        return draft.summary(trouble.reason, trouble.message, draft.stage.pending.phase)
    return _at_work(draft, job, pods)


# --- at work ---------------------------------------------------------------------------------------------------
def _at_work(draft: Draft, job: ChildJob, pods: tuple[Pod, ...]) -> Draft:
    stage, nodes = draft.stage, job.pod_count
    started = sum(pod.is_running or pod.is_finished for pod in pods)
    if stage.active != stage.pending and started < nodes and not _was_active(draft):
        return draft.summary(Reason.STARTING, f"Attempt {draft.number}: the pods are starting.", stage.pending.phase)
    message = stage.active.message.format(number=draft.number, nodes=nodes)
    waits_for = _waits_for(draft)
    if waits_for:
        return _waiting(draft, compose(message, waits_for, _CURE_OF_WAITING))
    later, shortage = _next_on_nodes(draft), _shortage(draft)
    if later is None or shortage is None:
        return draft.summary(stage.active.reason, message, stage.active.phase)
    waits = f"{message.removesuffix('.')}, but {later.work} could not start yet. {shortage.message}"
    return draft.summary(shortage.reason, waits, stage.active.phase)


def _was_active(draft: Draft) -> bool:
    """A pod that was deleted a moment before the Job says so does not take the attempt back to its start."""
    summary, active = draft.status.condition(ConditionType.SUCCEEDED), draft.stage.active
    at_work = (active.reason, Reason.WAITING_FOR_STORAGE)
    return draft.status.phase == active.phase and summary is not None and summary.reason in at_work


def _waits_for(draft: Draft) -> str:
    """What the trainer itself says that it waits for; empty while it works."""
    progress = current_progress(draft) if draft.stage.has_checkpoints else None
    return (progress and progress.waiting) or ""


def _waiting(draft: Draft, message: str) -> Draft:
    before = draft.status.condition(ConditionType.SUCCEEDED)
    if before is None or before.reason != Reason.WAITING_FOR_STORAGE:
        draft = draft.event(Event("Warning", Reason.WAITING_FOR_STORAGE, message))
    return draft.summary(Reason.WAITING_FOR_STORAGE, message, draft.stage.active.phase)


def _next_on_nodes(draft: Draft) -> Stage | None:
    """The stage to come that needs nodes of the class, when this one does without them."""
    if draft.stage.shape.needs_class:
        return None
    to_come = (stage for stage in draft.snapshot.stages if not stage.is_done(draft.status))
    return next((stage for stage in to_come if stage.shape.needs_class), None)


def _shortage(draft: Draft) -> Condition | None:
    """What planning found missing."""
    planned = draft.status.condition(ConditionType.PLANNED)
    return planned if planned is not None and planned.status != ConditionStatus.TRUE else None


# --- reported by the pod -------------------------------------------------------------------------------------------
def _reported_by_pod(draft: Draft, pod: Pod) -> _Trouble | None:
    if pod.is_finished or pod.is_terminating or pod.is_departed:
        return None
    if pod.is_unschedulable:
        return _unschedulable(draft, pod)
    if pod.waiting is not None and pod.waiting.reason in _IMAGE_PULL:
        message = compose(
            f"Pod {pod.name} cannot get its image ({pod.waiting.reason}):",
            pod.waiting.message,
            "Check the operator's trainer image and its pull secret.",
        )
        return _Trouble(Reason.IMAGE_PULL_FAILED, message)
    if pod.waiting is not None and pod.waiting.reason in _NOT_STARTING:
        return _not_starting(pod.name, pod.waiting.reason, pod.waiting.message)
    return None


def _unschedulable(draft: Draft, pod: Pod) -> _Trouble:
    shortage = _shortage(draft) if draft.stage.shape.needs_class else None
    said = pod.conditions["PodScheduled"].get("message", "")
    if shortage is not None:
        return _Trouble(shortage.reason, compose(shortage.message, f"The scheduler says: {said}"))
    message = compose(
        f"Pod {pod.name} finds no node:",
        said,
        "It waits until a node has room; lower spec.resources, or free or add nodes.",
    )
    return _Trouble(Reason.UNSCHEDULABLE, message)


def _not_starting(name: str, reason: str, said: str) -> _Trouble:
    message = compose(
        f"Pod {name} does not start ({reason}):",
        said,
        "It resumes by itself when that is fixed; check the Secret and the claims that the spec names.",
    )
    return _Trouble(Reason.POD_NOT_STARTING, message)


# --- reported by events only ---------------------------------------------------------------------------------------
def _reported_by_events(draft: Draft, job: ChildJob, pods: tuple[Pod, ...]) -> tuple[Draft, _Trouble | None]:
    """A volume that cannot be mounted and a quota that is used up stand in events and nowhere else."""
    name, created = _silent(job, pods)
    if name is None:
        return draft, None
    age = (draft.snapshot.now - created).total_seconds() if created else 0.0
    patience = draft.snapshot.options.stuck_after_seconds
    if age < patience:
        return draft.again(patience - age), None
    draft = draft.again(min(age, _LONGEST_WAIT_SECONDS))
    warning = draft.snapshot.warning
    if warning is None:
        return replace(draft, explain=name), None
    if not warning.message:
        return draft, None
    if not pods:
        message = compose(
            f"Job {job.name} has no pods ({warning.reason}):", warning.message, "Check the quota of the namespace."
        )
        return draft, _Trouble(Reason.NO_PODS, message)
    return draft, _not_starting(name, warning.reason, warning.message)


def _silent(job: ChildJob, pods: tuple[Pod, ...]) -> tuple[str, datetime | None] | tuple[None, None]:
    """The object that should be further along: a Job without pods, or a pod on a node that does not start."""
    if not pods:
        return job.name, job.created
    for pod in pods:
        if pod.node_name and pod.phase == "Pending" and not (pod.is_terminating or pod.is_departed):
            return pod.name, pod.created
    return None, None
