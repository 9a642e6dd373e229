"""The child is there and has not ended: what is it doing, or what does it wait for? In the pods' own words, with the
next step for the person. Nothing here is final: what is mended goes on by itself.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import Condition, ConditionStatus, ConditionType, Reason, as_sentence
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import ChildJob, Pod, Role

_IMAGE_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_NOT_STARTING = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
_LONGEST_WAIT_SECONDS = 300.0


@dataclass(frozen=True)
class _Trouble:
    reason: str
    message: str


def explain_child(draft: Draft) -> Draft:
    job, status = current_child(draft), draft.status
    assert job is not None  # create_child settles without one
    pods = draft.snapshot.pods_of(status.role, status.run, status.number)
    trouble = next((found for pod in pods if (found := _told_by_pod(draft, pod)) is not None), None)
    if trouble is None:
        draft, trouble = _told_by_events(draft, job, pods)
    if trouble is not None:
        return draft.summary(trouble.reason, trouble.message, _phase_of_trouble(draft))
    return _at_work(draft, job, pods)


def _phase_of_trouble(draft: Draft) -> str:
    return "Preparing" if draft.status.role is Role.PREPARE else "Pending"


# --- at work ---------------------------------------------------------------------------------------------------
def _at_work(draft: Draft, job: ChildJob, pods: tuple[Pod, ...]) -> Draft:
    if draft.status.role is Role.PREPARE:
        return _preparing(draft)
    number, nodes = draft.status.attempt, job.pod_count
    started = sum(pod.is_running or pod.is_finished for pod in pods)
    if started >= nodes or _was_training(draft):
        return draft.summary(Reason.TRAINING, f"Attempt {number} is training on {nodes} node(s).", "Training")
    return draft.summary(Reason.STARTING, f"Attempt {number}: the pods are starting.", "Pending")


def _preparing(draft: Draft) -> Draft:
    shortage = _shortage(draft)
    if shortage is not None:
        message = f"The data is being prepared, but training could not start by now. {shortage.message}"
        return draft.summary(shortage.reason, message, "Preparing")
    return draft.summary(Reason.PREPARING, "The data is being prepared.", "Preparing")


def _was_training(draft: Draft) -> bool:
    """A pod that was deleted a moment before the Job says so does not make the attempt start anew."""
    summary = draft.status.condition(ConditionType.SUCCEEDED)
    return draft.status.phase == "Training" and summary is not None and summary.reason == Reason.TRAINING


def _shortage(draft: Draft) -> Condition | None:
    """What planning found missing."""
    planned = draft.status.condition(ConditionType.PLANNED)
    return planned if planned is not None and planned.status != ConditionStatus.TRUE else None


# --- told by the pod -------------------------------------------------------------------------------------------
def _told_by_pod(draft: Draft, pod: Pod) -> _Trouble | None:
    if pod.is_finished or pod.is_terminating or pod.is_departed:
        return None
    if pod.is_unschedulable:
        return _unschedulable(draft, pod)
    if pod.waiting is not None and pod.waiting.reason in _IMAGE_PULL:
        message = (
            f"Pod {pod.name} cannot get its image ({pod.waiting.reason}): {as_sentence(pod.waiting.message)} "
            "Check the operator's trainer image and its pull secret."
        )
        return _Trouble(Reason.IMAGE_PULL_FAILED, message)
    if pod.waiting is not None and pod.waiting.reason in _NOT_STARTING:
        return _not_starting(pod.name, pod.waiting.reason, pod.waiting.message)
    return None


def _unschedulable(draft: Draft, pod: Pod) -> _Trouble:
    shortage = _shortage(draft) if draft.status.role is Role.TRAIN else None
    said = pod.conditions["PodScheduled"].get("message", "")
    if shortage is not None:
        return _Trouble(shortage.reason, f"{shortage.message} The scheduler says: {as_sentence(said)}")
    advice = "It waits until a node has room; lower spec.resources, or free or add nodes."
    message = f"Pod {pod.name} finds no node: {as_sentence(said)} {advice}"
    return _Trouble(Reason.UNSCHEDULABLE, message)


def _not_starting(name: str, reason: str, said: str) -> _Trouble:
    message = (
        f"Pod {name} does not start ({reason}): {as_sentence(said)} It goes on by itself when that is mended; "
        "check the Secret and the claims that the spec names."
    )
    return _Trouble(Reason.POD_NOT_STARTING, message)


# --- told by events only ---------------------------------------------------------------------------------------
def _told_by_events(draft: Draft, job: ChildJob, pods: tuple[Pod, ...]) -> tuple[Draft, _Trouble | None]:
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
        said = f"Job {job.name} has no pods ({warning.reason}): {as_sentence(warning.message)}"
        advice = "Check the quota of the namespace."
        return draft, _Trouble(Reason.NO_PODS, f"{said} {advice}")
    return draft, _not_starting(name, warning.reason, warning.message)


def _silent(job: ChildJob, pods: tuple[Pod, ...]) -> tuple[str, datetime | None] | tuple[None, None]:
    """The object that should have got further by now: a Job without pods, or a pod on a node that does not start."""
    if not pods:
        return job.name, job.created
    for pod in pods:
        if pod.node_name and pod.phase == "Pending" and not (pod.is_terminating or pod.is_departed):
            return pod.name, pod.created
    return None, None
