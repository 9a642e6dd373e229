"""What the end of a child Job means: from the Job's conditions and its pods to one `End`.

An exit code counts only with the supervisor's termination record (`Pod.record`); without one, what the kubelet, the
scheduler and the Job controller say is all there is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from finetune_contract.exitcodes import ExitCode
from finetune_contract.termination import INVALID_JOB_FILE, TerminationRecord
from finetune_operator.core.conditions import Reason, as_sentence
from finetune_operator.core.objects import JobEnd, Pod, Role


class EndKind(Enum):
    SUCCEEDED = "succeeded"
    FINAL = "final"
    """No further attempt of this run can end differently."""
    COUNTED = "counted"
    """Worth another try, at the expense of spec.retries."""
    UNCOUNTED = "uncounted"
    """Nobody's fault: the next attempt goes on from the last checkpoint."""
    UNREADABLE = "unreadable"
    """The trainer image does not know the job file: the next attempt waits for another image."""


@dataclass(frozen=True)
class End:
    kind: EndKind
    reason: str
    message: str
    record: TerminationRecord | None = None
    is_certain: bool = True
    """False when it rests on pods that were not seen: they have to be looked for at the server first."""


CONSEQUENCES: Mapping[ExitCode, EndKind] = {
    ExitCode.SUCCEEDED: EndKind.SUCCEEDED,
    ExitCode.INVALID_CONFIGURATION: EndKind.FINAL,
    ExitCode.INVALID_DATA: EndKind.FINAL,
    ExitCode.NO_VALID_CHECKPOINT: EndKind.FINAL,
    ExitCode.ACCELERATOR_OUT_OF_MEMORY: EndKind.FINAL,
    ExitCode.DIVERGED: EndKind.FINAL,
    ExitCode.TRANSIENT: EndKind.COUNTED,
    ExitCode.STOPPED_AFTER_SAVE: EndKind.UNCOUNTED,
}
"""What follows from each code of the contract: the one place that says what is final."""
_DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
_EXIT_CODE = re.compile(r"exit code (\d+)")


def classify(end: JobEnd, pods: Sequence[Pod], role: Role, memory_limit: str) -> End:
    """`pods` are those of the attempt that still exist; a drain has deleted them already."""
    if end.is_complete:
        return _completion(pods, role)
    seen = [verdict for pod in _by_time(pods) if (verdict := _of_pod(pod, memory_limit)) is not None]
    return min(seen, key=_precedence) if seen else _of_message(end)


# --- success ---------------------------------------------------------------------------------------------------
def _completion(pods: Sequence[Pod], role: Role) -> End:
    for pod in pods:
        record = pod.record
        if record is not None and record.exit_code == ExitCode.SUCCEEDED and _has_result(record, role):
            return End(EndKind.SUCCEEDED, Reason.SUCCEEDED, record.message, record)
    return End(
        EndKind.UNCOUNTED,
        Reason.RECORD_MISSING,
        "The Job completed and its result was not handed over: its pods are gone, or left no termination record.",
        is_certain=False,
    )


def _has_result(record: TerminationRecord, role: Role) -> bool:
    return (record.prepared if role is Role.PREPARE else record.artifact) is not None


# --- failure ---------------------------------------------------------------------------------------------------
def _by_time(pods: Sequence[Pod]) -> list[Pod]:
    """The first to end is the likely cause, the others were torn along."""
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


def _of_pod(pod: Pod, memory_limit: str) -> End | None:
    """None for a pod that has not failed."""
    record = pod.record
    if record is not None and record.code is not ExitCode.SUCCEEDED:
        return _of_record(record, pod)
    if pod.disruption is not None:
        return End(EndKind.UNCOUNTED, _disruption_reason(pod), _own_words(pod, "The pod was disrupted"))
    if pod.terminated is not None:
        return _of_container(pod, memory_limit)
    if pod.phase == "Failed":
        # Rejected or evicted by the kubelet before the container had a state: infrastructure.
        return End(EndKind.UNCOUNTED, Reason.REJECTED_BY_NODE, _own_words(pod, "The node refused the pod"))
    return None


def _of_record(record: TerminationRecord, pod: Pod) -> End:
    code = record.code
    if code is ExitCode.STOPPED_AFTER_SAVE:
        return End(EndKind.UNCOUNTED, _disruption_reason(pod, Reason.STOPPED), record.message, record)
    if record.reason == INVALID_JOB_FILE:
        return End(EndKind.UNREADABLE, record.reason, record.message, record)
    # A code that the contract does not know is a bug, or comes from a newer trainer: worth another try.
    kind = EndKind.COUNTED if code is None else CONSEQUENCES[code]
    reason = Reason.ACCELERATOR_OUT_OF_MEMORY if code is ExitCode.ACCELERATOR_OUT_OF_MEMORY else record.reason
    return End(kind, reason, record.message, record)


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
        f"Pod {pod.name} ended with exit code {ended.exit_code} ({ended.reason}) and left no termination record"
        f"{': ' + ended.message if ended.message else ''}. See kubectl logs {pod.name}.",
    )


def _disruption_reason(pod: Pod, otherwise: Reason = Reason.DISRUPTED) -> Reason:
    return otherwise if pod.disruption is None else _DISRUPTIONS.get(pod.disruption.get("reason", ""), Reason.DISRUPTED)


def _own_words(pod: Pod, otherwise: str) -> str:
    said = (pod.disruption or {}).get("message") or pod.message
    return f"Pod {pod.name}: {said}" if said else f"{otherwise}: {pod.name}."


def _of_message(end: JobEnd) -> End:
    """The pods are gone: the Job controller's message carries what its rules matched."""
    match = _EXIT_CODE.search(end.message)
    if "DisruptionTarget" in end.message:
        return End(EndKind.UNCOUNTED, Reason.DISRUPTED, end.message, is_certain=False)
    if match and int(match[1]) == ExitCode.STOPPED_AFTER_SAVE:
        return End(EndKind.UNCOUNTED, Reason.STOPPED, end.message, is_certain=False)
    message = f"{as_sentence(f'{end.reason}: {end.message}')} The pods are gone, and with them their account of it."
    return End(EndKind.COUNTED, Reason.CRASHED, message, is_certain=False)
