"""What surrounds the API server: garbage collector, Job controller, scheduler and kubelets, moved by `tick`.

A stand-in for all of them, as coarse as the reconciler allows: each tick is one step of each component. What becomes of
a pod is scripted by the name of its Job, so that a run with faults meets the same fate as one without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_contract import names
from finetune_contract.termination import TerminationRecord
from finetune_operator.core.objects import CONTAINER
from finetune_operator.core.timestamps import format_time
from finetune_operator.ports import FINETUNEJOBS, JOBS, NODES, PODS, SERVICES, Json, Key, Resource
from tests.builders.records import prepared_record, stopped_record, trained_record
from tests.fakes.clock import LoopClock
from tests.fakes.kubernetes import FakeCluster

TICK_SECONDS = 10.0
_TICKS_TO_SAVE = 3
"""From SIGTERM to the end: long enough for an attempt that does not wait to start beside it."""
_INDEX = "batch.kubernetes.io/job-completion-index"


# --- what becomes of a pod -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fate:
    """Pending for one tick, then running for `ticks`, then the end."""

    ticks: int = 2
    exit_code: int = 0
    record: TerminationRecord | None = None
    reason: str = ""
    """Of the container's end; Completed or Error when empty."""
    disruption: str = ""
    """Reason of a DisruptionTarget condition: the pod is deleted instead of ending by itself."""
    node_fails: bool = False
    """The node is lost: DisruptionTarget and deletion, and no kubelet to end the pod."""
    waits: Json = field(default_factory=dict)
    """Status of a pod that never starts on its node."""
    saved_step: int = 0
    """Of the checkpoint that the pod saves on SIGTERM."""


SUCCEEDS = Fate()


def fails(code: int, record: TerminationRecord | None = None, *, reason: str = "") -> Fate:
    return Fate(exit_code=code, record=record, reason=reason)


def is_disrupted(reason: str, saved_step: int) -> Fate:
    return Fate(disruption=reason, saved_step=saved_step)


NODE_FAILS = Fate(disruption="DeletionByTaintManager", node_fails=True)


# --- the components ------------------------------------------------------------------------------------------
@dataclass
class Simulation:
    cluster: FakeCluster
    clock: LoopClock
    key: Key
    fates: Mapping[str, Fate] = field(default_factory=dict)
    """By the name of the Job, or `<job>#<index>`; a pod without one succeeds."""
    acts: list["Act"] = field(default_factory=list)
    """What people do, in order; each waits until the one before it is done."""
    ages: dict[str, int] = field(default_factory=dict)
    """Ticks that a pod has been running, by uid."""
    saving: dict[str, int] = field(default_factory=dict)
    """Ticks since SIGTERM, by uid."""

    def tick(self) -> None:
        """One step of each component and at most one act, every TICK_SECONDS."""
        self._act()
        self._collect_garbage()
        for job in list(self.cluster.items(JOBS)):
            self._control(job)
        for pod in list(self.cluster.items(PODS)):
            self._run(pod)

    def _act(self) -> None:
        if self.acts and self.acts[0].when(self):
            self.acts.pop(0).do(self)

    # --- questions of acts and tests -------------------------------------------------------------------------
    def job(self) -> Json | None:
        return self.cluster.find(FINETUNEJOBS, self.key.namespace, self.key.name)

    def status(self) -> Json:
        return (self.job() or {}).get("status") or {}

    def child(self, name: str) -> Json | None:
        return self.cluster.find(JOBS, self.key.namespace, name)

    def running_pods(self, job_name: str) -> list[Json]:
        return [pod for pod in self._pods(job_name) if pod["status"].get("phase") == "Running"]

    def _pods(self, job_name: str) -> list[Json]:
        return [pod for pod in self.cluster.items(PODS) if pod["metadata"]["ownerReferences"][0]["name"] == job_name]

    # --- garbage collector -----------------------------------------------------------------------------------
    def _collect_garbage(self) -> None:
        for resource in (JOBS, SERVICES, PODS):
            for obj in list(self.cluster.items(resource)):
                owner = next(iter(obj["metadata"].get("ownerReferences") or ()), None)
                if owner is not None and not self._exists(owner, obj["metadata"]["namespace"]):
                    self.cluster.delete(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _exists(self, owner: Json, namespace: str) -> bool:
        resource: Resource = {"FineTuneJob": FINETUNEJOBS, "Job": JOBS}[owner["kind"]]
        found = self.cluster.find(resource, namespace, owner["name"])
        return found is not None and found["metadata"]["uid"] == owner["uid"]

    # --- Job controller --------------------------------------------------------------------------------------
    def _control(self, job: Json) -> None:
        if _is_true(job, "Complete") or _is_true(job, "Failed"):
            return
        pods = self._pods(job["metadata"]["name"])
        failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
        if failed or _is_true(job, "FailureTarget"):
            self._fail(job, pods, failed)
        elif pods and all(pod["status"].get("phase") == "Succeeded" for pod in pods):
            self._set_conditions(job, "SuccessCriteriaMet", "Complete", reason="CompletionsReached", message="")
        elif not pods:
            self._create_pods(job)

    def _fail(self, job: Json, pods: list[Json], failed: list[Json]) -> None:
        message = _failure_message(failed[0]) if failed else ""
        if not _is_true(job, "FailureTarget"):
            self._set_conditions(job, "FailureTarget", reason="PodFailurePolicy", message=message)
        for pod in pods:
            if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                self.cluster.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if all(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in self._pods(job["metadata"]["name"])):
            self._set_conditions(job, "Failed", reason="PodFailurePolicy", message=message)

    def _set_conditions(self, job: Json, *types: str, reason: str, message: str) -> None:
        def change(obj: Json) -> None:
            conditions = obj.setdefault("status", {}).setdefault("conditions", [])
            conditions += [
                {"type": type_, "status": "True", "reason": reason, "message": message}
                | {"lastTransitionTime": format_time(self.clock.now())}
                for type_ in types
            ]

        self.cluster.edit(JOBS, job["metadata"]["namespace"], job["metadata"]["name"], change)

    def _create_pods(self, job: Json) -> None:
        spec, metadata = job["spec"], job["metadata"]
        for index in range(spec["completions"]):
            template = spec["template"]
            annotations = {**template["metadata"]["annotations"], _INDEX: str(index)}
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
            self.cluster.create(
                PODS,
                metadata["namespace"],
                {
                    "metadata": {
                        "name": f"{metadata['name']}-{index}-{metadata['uid'][-4:]}",
                        "labels": dict(template["metadata"]["labels"]),
                        "annotations": annotations,
                        "ownerReferences": [{**owner, "controller": True}],
                    },
                    "spec": {},
                },
            )
            self._set_status(self._pods(metadata["name"])[index], {"phase": "Pending"})

    # --- scheduler and kubelet -------------------------------------------------------------------------------
    def _run(self, pod: Json) -> None:
        phase, fate = pod["status"].get("phase"), self._fate(pod)
        if pod["metadata"].get("deletionTimestamp"):
            self._terminate(pod, fate)
        elif phase == "Pending" and not pod["spec"].get("nodeName"):
            self._schedule(pod)
        elif phase == "Pending" and fate.waits:
            self._set_status(pod, {"phase": "Pending", **fate.waits})
        elif phase == "Pending":
            self._set_status(pod, {"phase": "Running", "containerStatuses": [_container({"running": {}})]})
        elif phase == "Running":
            self._age(pod, fate)

    def _fate(self, pod: Json) -> Fate:
        job_name = pod["metadata"]["ownerReferences"][0]["name"]
        index = pod["metadata"]["annotations"][_INDEX]
        return self.fates.get(f"{job_name}#{index}", self.fates.get(job_name, SUCCEEDS))

    def _schedule(self, pod: Json) -> None:
        index = int(pod["metadata"]["annotations"][_INDEX])
        nodes = [node["metadata"]["name"] for node in self.cluster.items(NODES) if _is_node_ready(node)]

        def change(obj: Json) -> None:
            obj["spec"]["nodeName"] = nodes[index % len(nodes)]

        self.cluster.edit(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], change)

    def _age(self, pod: Json, fate: Fate) -> None:
        uid = pod["metadata"]["uid"]
        self.ages[uid] = self.ages.get(uid, 0) + 1
        if self.ages[uid] < fate.ticks:
            return
        if fate.disruption:
            self._disrupt(pod, fate)
        else:
            self._end(pod, fate)

    def _disrupt(self, pod: Json, fate: Fate) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": fate.disruption, "message": "making room"}
        self._set_status(pod, {**pod["status"], "conditions": [condition]})
        if fate.node_fails:
            self._lose_node(pod["spec"]["nodeName"])
        self.cluster.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _lose_node(self, name: str) -> None:
        def change(obj: Json) -> None:
            obj["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]

        self.cluster.edit(NODES, None, name, change)

    def _terminate(self, pod: Json, fate: Fate) -> None:
        """SIGTERM → save → 85 → gone. A pod on a lost node stays as it is, and fails for the Job."""
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            self.cluster.remove((PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]))
        elif not _is_node_ready(self.cluster.get(NODES, None, pod["spec"]["nodeName"])):
            job = self.child(pod["metadata"]["ownerReferences"][0]["name"])
            if job is not None and not _is_true(job, "FailureTarget"):
                self._set_conditions(job, "FailureTarget", reason="PodFailurePolicy", message=_failure_message(pod))
        elif pod["status"].get("phase") == "Running":
            self._save(pod, fate)
        else:
            self.cluster.remove((PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _save(self, pod: Json, fate: Fate) -> None:
        uid = pod["metadata"]["uid"]
        self.saving[uid] = self.saving.get(uid, 0) + 1
        if self.saving[uid] >= _TICKS_TO_SAVE:
            attempt = int(pod["metadata"]["labels"][names.LABEL_ATTEMPT])
            stopped = replace(fate, exit_code=85, record=stopped_record(fate.saved_step, attempt), reason="")
            self._end(pod, stopped)

    def _end(self, pod: Json, fate: Fate) -> None:
        record = fate.record or (self._success(pod) if fate.exit_code == 0 else None)
        terminated: dict[str, Any] = {
            "exitCode": fate.exit_code,
            "reason": fate.reason or ("Error" if fate.exit_code else "Completed"),
            "message": record.render().decode() if record else "",
            "finishedAt": format_time(self.clock.now()),
        }
        phase = "Failed" if fate.exit_code else "Succeeded"
        self._set_status(
            pod, {**pod["status"], "phase": phase, "containerStatuses": [_container({"terminated": terminated})]}
        )

    def _success(self, pod: Json) -> TerminationRecord:
        labels = pod["metadata"]["labels"]
        if labels[names.LABEL_ROLE] == "prepare":
            return prepared_record()
        return trained_record(int(labels[names.LABEL_ATTEMPT]))

    def _set_status(self, pod: Json, status: Json) -> None:
        def change(obj: Json) -> None:
            obj["status"] = status

        self.cluster.edit(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], change)


@dataclass(frozen=True)
class Act:
    """Something a person does, once, as soon as `when` holds."""

    when: Callable[[Simulation], bool]
    do: Callable[[Simulation], None]


def _container(state: Json) -> Json:
    return {"name": CONTAINER, "state": state}


def _is_true(job: Json, type_: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == type_ and condition["status"] == "True" for condition in conditions)


def _is_node_ready(node: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])


def _failure_message(pod: Json) -> str:
    """As the Job controller words what a FailJob rule matched."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    states = pod["status"].get("containerStatuses") or [_container({})]
    code = (states[0]["state"].get("terminated") or {}).get("exitCode")
    if any(c["type"] == "DisruptionTarget" for c in pod["status"].get("conditions") or ()):
        return f"Pod {name} has condition DisruptionTarget matching FailJob rule at index 0"
    return f"Container {CONTAINER} for pod {name} failed with exit code {code} matching FailJob rule at index 1"
