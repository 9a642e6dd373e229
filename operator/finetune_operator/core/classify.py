"""What the end of a child Job means: from the Job's conditions and its pods to one `End`.

An exit code counts only with the supervisor's termination record (`Pod.record`); without one, what the kubelet, the
scheduler and the Job controller say is all there is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import INVALID_JOB_FILE, STOPPED_WITHOUT_SAVE, TerminationRecord
from finetune_operator.core.conditions import Reason, compose
from finetune_operator.core.objects import JobEnd, Pod
from finetune_operator.core.stages import EndKind, Stage


@dataclass(frozen=True)
class End:
    kind: EndKind
    reason: str
    message: str
    record: TerminationRecord | None = None
    is_certain: bool = True
    """False when it rests on pods that were not seen: they have to be looked up at the server first."""


_DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
_EXIT_CODE = re.compile(r"exit code (\d+)")


def classify(end: JobEnd, pods: Sequence[Pod], stage: Stage, memory_limit: str) -> End:
    """`pods` are those of the attempt that still exist; a drain has deleted them already."""
    if end.is_complete:
        return _completion(pods, stage)
    seen = [verdict for pod in _by_time(pods) if (verdict := _of_pod(pod, stage, memory_limit)) is not None]
    return min(seen, key=_precedence) if seen else _of_message(end)


# --- success ---------------------------------------------------------------------------------------------------
def _completion(pods: Sequence[Pod], stage: Stage) -> End:
    for pod in pods:
        record = pod.record
        if record is not None and record.exit_code == ExitCode.SUCCEEDED and stage.result(record) is not None:
            return End(EndKind.SUCCEEDED, Reason.SUCCEEDED, record.message, record)
    return End(
        EndKind.UNCOUNTED,
        Reason.RECORD_MISSING,
        "The Job completed without handing over its result: its pods are gone, or left no termination record.",
        is_certain=False,
    )


# --- failure ---------------------------------------------------------------------------------------------------
def _by_time(pods: Sequence[Pod]) -> list[Pod]:
    """The first to end is the likely cause; the others followed."""
    ended = [pod for pod in pods if pod.terminated is not None and pod.terminated.finished is not None]
    others = [pod for pod in pods if pod not in ended]
    return sorted(ended, key=lambda pod: (str(pod.terminated and pod.terminated.finished), pod.name)) + others


def _precedence(end: End) -> int:
    """Smaller wins, among pods of one attempt. A peer that lost its counterpart fails with a network error or
    crashes, so the specific causes come first."""
    if end.kind in (EndKind.FINAL, EndKind.UNREADABLE):
        return 0
    if end.reason == Reason.OOM_KILLED:
        return 1
    return 2 if end.kind is EndKind.UNCOUNTED else 3


def _of_pod(pod: Pod, stage: Stage, memory_limit: str) -> End | None:
    """None for a pod that has not failed."""
    record = pod.record
    if record is not None and record.code is not ExitCode.SUCCEEDED:
        return _of_record(record, pod, stage)
    if pod.disruption is not None:
        return End(EndKind.UNCOUNTED, _disruption_reason(pod), _own_words(pod, "The pod was disrupted"))
    if pod.terminated is not None:
        return _of_container(pod, memory_limit)
    if pod.phase == "Failed":
        # Rejected or evicted by the kubelet before the container had a state: infrastructure.
        return End(EndKind.UNCOUNTED, Reason.REJECTED_BY_NODE, _own_words(pod, "The node refused the pod"))
    return None


def _of_record(record: TerminationRecord, pod: Pod, stage: Stage) -> End:
    code, kind = record.code, stage.means(record.code)
    if code is ExitCode.STOPPED_AFTER_SAVE:
        return End(kind, _disruption_reason(pod, Reason.STOPPED), record.message, record)
    if record.reason == STOPPED_WITHOUT_SAVE and _was_told_to_stop(pod):
        return End(EndKind.UNCOUNTED, _disruption_reason(pod, Reason.STOPPED_WITHOUT_SAVE), record.message, record)
    if record.reason == INVALID_JOB_FILE:
        return End(EndKind.UNREADABLE, record.reason, record.message, record)
    reason = Reason.ACCELERATOR_OUT_OF_MEMORY if code is ExitCode.ACCELERATOR_OUT_OF_MEMORY else record.reason
    return End(kind, reason, record.message, record)


def _was_told_to_stop(pod: Pod) -> bool:
    """By a disruption, a suspension, a deletion: the steps that were lost are nobody's fault. A process that was
    stopped in a pod that nobody touched has a cause that may come again."""
    return pod.disruption is not None or pod.is_terminating


def _of_container(pod: Pod, memory_limit: str) -> End | None:
    """Without a record: the kernel, the runtime, or a crash of the supervisor."""
    ended = pod.terminated
    if ended is None or ended.exit_code == ExitCode.SUCCEEDED:
        return None
    if ended.exit_code == ExitCode.STOPPED_AFTER_SAVE:
        return End(EndKind.UNCOUNTED, Reason.STOPPED, f"Pod {pod.name} stopped on request.")
    if ended.reason == "OOMKilled":
        message = f"Pod {pod.name} exceeded its memory limit of {memory_limit}: raise resources.memory."
        return End(EndKind.COUNTED, Reason.OOM_KILLED, message)
    if ended.reason == "ContainerStatusUnknown":
        return End(EndKind.UNCOUNTED, Reason.NODE_LOST, f"Pod {pod.name} was lost with node {pod.node_name}.")
    return End(
        EndKind.COUNTED,
        Reason.CRASHED,
        compose(
            f"Pod {pod.name} ended with exit code {ended.exit_code} ({ended.reason}) and left no termination record"
            f"{':' if ended.message else '.'}",
            ended.message,
            f"See kubectl logs {pod.name}.",
        ),
    )


def _disruption_reason(pod: Pod, otherwise: Reason = Reason.DISRUPTED) -> Reason:
    return otherwise if pod.disruption is None else _DISRUPTIONS.get(pod.disruption.get("reason", ""), Reason.DISRUPTED)


def _own_words(pod: Pod, otherwise: str) -> str:
    said = (pod.disruption or {}).get("message") or pod.message
    return compose(f"Pod {pod.name}:", said) if said else f"{otherwise}: {pod.name}."


def _of_message(end: JobEnd) -> End:
    """The pods are gone: the Job controller's message carries what its rules matched."""
    match = _EXIT_CODE.search(end.message)
    if "DisruptionTarget" in end.message:
        return End(EndKind.UNCOUNTED, Reason.DISRUPTED, end.message, is_certain=False)
    if match and int(match[1]) == ExitCode.STOPPED_AFTER_SAVE:
        return End(EndKind.UNCOUNTED, Reason.STOPPED, end.message, is_certain=False)
    message = compose(
        f"{end.reason}:" if end.message else f"{end.reason}.",
        end.message,
        "The pods are gone, and with them their account of it.",
    )
    return End(EndKind.COUNTED, Reason.CRASHED, message, is_certain=False)
