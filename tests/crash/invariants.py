"""Promises of docs/failure-modes.md, checked over the whole history of a cluster and not only at its end."""

from collections.abc import Iterator, Mapping

from finetune_contract import names
from finetune_operator.ports import FINETUNEJOBS, JOBS, NODES, PODS, Json
from tests.crash.harness import Play
from tests.fakes.kubernetes import Change

Pods = Mapping[str, Json]


def check_all(play: Play) -> None:
    check_single_attempt(play.cluster.history)
    check_truthful_status(play.cluster.history)
    check_numbers_are_used_once(play.cluster.history)


# --- P1 ------------------------------------------------------------------------------------------------------
def check_single_attempt(history: list[Change]) -> None:
    """When a pod is created, no pod of another attempt can still write, and no other pod holds its rank."""
    pods: dict[str, Json] = {}
    ready: dict[str, bool] = {}
    for change in history:
        if change.resource == NODES:
            ready[change.obj["metadata"]["name"]] = _is_ready(change.obj)
        if change.resource != PODS:
            continue
        if change.type == "ADDED":
            for other in pods.values():
                if _can_write(other, ready):
                    assert _attempt(other) == _attempt(change.obj), (
                        f"P1: {_name(other)} is alive at the same time as {_name(change.obj)}"
                    )
                    assert _rank(other) != _rank(change.obj), f"P1: {_name(other)} and {_name(change.obj)} share a rank"
        if change.type == "DELETED":
            pods.pop(change.obj["metadata"]["uid"], None)
        else:
            pods[change.obj["metadata"]["uid"]] = change.obj


def _can_write(pod: Json, ready: Mapping[str, bool]) -> bool:
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    is_fenced = "deletionTimestamp" in pod["metadata"] and not ready.get(pod["spec"].get("nodeName", ""), True)
    return not is_fenced


def _attempt(pod: Json) -> tuple[str, str, str]:
    labels = pod["metadata"]["labels"]
    return labels[names.LABEL_ROLE], labels[names.LABEL_RUN], labels[names.LABEL_ATTEMPT]


def _rank(pod: Json) -> str:
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def _name(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def _is_ready(node: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])


# --- a number is used once -----------------------------------------------------------------------------------
def check_numbers_are_used_once(history: list[Change]) -> None:
    """A Job that is gone never comes back, and none exists before its number is in status."""
    created: set[str] = set()
    status: Json = {}
    for change in history:
        if change.resource == FINETUNEJOBS:
            status = change.obj.get("status") or {}
        if change.resource == JOBS and change.type == "ADDED":
            assert _name(change.obj) not in created, f"the number of {_name(change.obj)} was used twice"
            created.add(_name(change.obj))
            labels = change.obj["metadata"]["labels"]
            field = "attempt" if labels[names.LABEL_ROLE] == "train" else "prepareAttempt"
            written = (status.get("run"), status.get(field))
            wanted = (int(labels[names.LABEL_RUN]), int(labels[names.LABEL_ATTEMPT]))
            assert written == wanted, f"{_name(change.obj)} exists while status says {written}"


# --- P3 ------------------------------------------------------------------------------------------------------
def check_truthful_status(history: list[Change]) -> None:
    verdicts: dict[tuple[str, int], str] = {}
    published = False
    numbers = (0, 0)
    for change in history:
        published = published or _is_success(change)
        if change.resource != FINETUNEJOBS or not change.obj.get("status"):
            continue
        metadata, status = change.obj["metadata"], change.obj["status"]
        for generation in _observed_generations(status):
            assert generation <= metadata["generation"], "P3: a generation was observed before it existed"
        assert (status["run"], status.get("attempt", 0)) >= numbers, "P3: run or attempt went back"
        numbers = (status["run"], status.get("attempt", 0))
        verdict = next((c["status"] for c in status["conditions"] if c["type"] == "Succeeded"), "Unknown")
        previous = verdicts.setdefault((metadata["uid"], status["run"]), verdict)
        assert previous in ("Unknown", verdict), (
            f"P3: Succeeded went from {previous} to {verdict} within run {status['run']}"
        )
        verdicts[metadata["uid"], status["run"]] = verdict
        assert verdict != "True" or published, "P3: Succeeded without an artifact"


def _observed_generations(status: Json) -> Iterator[int]:
    yield status.get("observedGeneration", 0)
    for condition in status["conditions"]:
        yield condition["observedGeneration"]


def _is_success(change: Change) -> bool:
    if change.resource != PODS or change.obj["metadata"]["labels"][names.LABEL_ROLE] != "train":
        return False
    return change.obj.get("status", {}).get("phase") == "Succeeded"
