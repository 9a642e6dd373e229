"""Does what a kubelet would: FineTuneJobs in one namespace, and the fate of their pods.

The control plane is real and has no kubelet here. A Node object without a kubelet behind it carries the jobs' class, so
that their pods are created, stay pending, and end as the test writes it into their status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dev.kit.apiserver import ApiServer, Missing
from dev.kit.jobs import condition, is_finished, is_observed
from dev.kit.specs import Object, dotted, minimal_job, set_path
from dev.localcluster.waiting import until
from finetune_contract import names
from finetune_contract.termination import TerminationRecord
from finetune_operator.ports import EVENTS, FINETUNEJOBS, GPUCLASSES, JOBS, NODES, PODS

NODE_LABEL = f"{names.GROUP}/api-test"
SECONDS = 300.0
"""The overall limit of a wait."""
_FAR_PAST = "2020-01-01T00:00:00Z"


@dataclass
class FakeKubelet:
    """Jobs of the class `name` in the namespace `name`."""

    api: ApiServer
    name: str
    log: Callable[[], str] = field(default=str)
    """Of the operator, for the explanation of a failure."""

    @property
    def namespace(self) -> str:
        return self.name

    # --- the scene ------------------------------------------------------------------------------------------------
    def add_node(self, suffix: str, labels: dict[str, str] | None = None) -> str:
        """A cordoned node of the class; nobody will ever answer for it."""
        name = f"{self.name}-{suffix}"
        labels = {NODE_LABEL: self.name} if labels is None else labels
        node = {"metadata": {"name": name, "labels": labels}, "spec": {"unschedulable": True}}
        self.api.create(NODES, None, {"apiVersion": "v1", "kind": "Node", **node})
        return name

    def add_class(self, value: str | None = None, *, name: str | None = None, **spec: Any) -> str:
        expression = {"key": NODE_LABEL, "operator": "In", "values": [value or self.name]}
        terms = [{"matchExpressions": [expression]}]
        body = {"apiVersion": FINETUNEJOBS.api_version, "kind": "GPUClass", "metadata": {"name": name or self.name}}
        self.api.create(GPUCLASSES, None, {**body, "spec": {"nodeSelectorTerms": terms, **spec}})
        return name or self.name

    # --- FineTuneJobs -----------------------------------------------------------------------------------------------
    def apply(self, name: str, **changes: Any) -> Object:
        """Create; `changes` are paths below spec with `__` for the dot."""
        job = minimal_job(name, {"resources.gpuClass": self.name, **dotted(changes)})
        return self.api.create(FINETUNEJOBS, self.namespace, job)

    def get(self, name: str) -> Object:
        return self.api.get(FINETUNEJOBS, self.namespace, name)

    def change(self, name: str, **changes: Any) -> None:
        """A merge patch: None removes the field."""
        spec: Object = {}
        for path, value in dotted(changes).items():
            set_path(spec, path, value)
        self.api.patch(FINETUNEJOBS, self.namespace, name, {"spec": spec})

    def annotate(self, name: str, **annotations: str) -> None:
        body = {"metadata": {"annotations": {f"{names.GROUP}/{key}": value for key, value in annotations.items()}}}
        self.api.patch(FINETUNEJOBS, self.namespace, name, body)

    def delete(self, name: str) -> None:
        self.api.delete(FINETUNEJOBS, self.namespace, name)

    def wait(self, name: str, what: str, is_so: Callable[[Object], object], seconds: float = SECONDS) -> Object:
        def look() -> Object | None:
            job = self.get(name)
            return job if is_so(job) else None

        return until(f"{name} is {what}", look, seconds=seconds, explain=lambda: self.explain(name))

    def wait_finished(self, name: str, status: str = "True") -> Object:
        job = self.wait(name, "finished", is_finished)
        assert condition(job, "Succeeded")["status"] == status, self.explain(name)
        return job

    def wait_reason(self, name: str, reason: str, kind: str = "Succeeded") -> Object:
        return self.wait(name, reason, lambda job: condition(job, kind).get("reason") == reason and is_observed(job))

    def wait_gone(self, name: str) -> None:
        """The object and everything that was made for it."""

        def is_gone() -> bool:
            try:
                self.get(name)
            except Missing:
                return not any(self.api.children(kind, self.namespace, name) for kind in (JOBS, PODS))
            return False

        until(f"{name} and its children are gone", is_gone, seconds=SECONDS, explain=self.log)

    # --- pods -----------------------------------------------------------------------------------------------------
    def job(self, name: str, child: str) -> Object:
        """The Job of this name, once it is there."""

        def look() -> Object | None:
            try:
                return self.api.get(JOBS, self.namespace, child)
            except Missing:
                return None

        return until(f"Job {child} is created", look, seconds=SECONDS, explain=lambda: self.explain(name))

    def job_names(self, name: str) -> list[str]:
        """Of the Jobs that are there for this FineTuneJob."""
        return [job["metadata"]["name"] for job in self.api.children(JOBS, self.namespace, name)]

    def pods(self, name: str, child: str, count: int = 1) -> list[Object]:
        """The pods of a Job, once they are there and it knows of them."""

        def look() -> list[Object] | None:
            found = self.api.list(PODS, self.namespace, **{"batch.kubernetes.io/job-name": child})
            alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
            job = self.job(name, child)
            return alive if len(alive) == count and (job.get("status") or {}).get("active") == count else None

        what = f"{count} pod(s) of {child} are created"
        return until(what, look, seconds=SECONDS, explain=lambda: self.explain(name))

    def set_status(self, pod: Object, **status: Any) -> None:
        self.api.patch(PODS, self.namespace, pod["metadata"]["name"], {"status": status}, subresource="status")

    def run(self, name: str, child: str, count: int = 1, address: str = "127.0.0.9") -> list[Object]:
        """The pods start."""
        pods = self.pods(name, child, count)
        for pod in pods:
            state = {"running": {"startedAt": _FAR_PAST}}
            self.set_status(
                pod,
                phase="Running",
                podIP=address,
                podIPs=[{"ip": address}],
                conditions=[{"type": "Ready", "status": "True"}],
                containerStatuses=[_container(pod, state, ready=True)],
            )
        return pods

    def end(
        self,
        pods: list[Object],
        code: int = 0,
        record: TerminationRecord | None = None,
        *,
        reason: str = "",
        disruption: str = "",
    ) -> None:
        """The pods end with this exit code and record."""
        for pod in pods:
            ended = {
                "exitCode": code,
                "reason": reason or ("Error" if code else "Completed"),
                "startedAt": _FAR_PAST,
                "finishedAt": _FAR_PAST,
                **({"message": record.render().decode()} if record else {}),
            }
            conditions = [{"type": "Ready", "status": "False"}]
            if disruption:
                conditions.append({"type": "DisruptionTarget", "status": "True", "reason": disruption})
            self.set_status(
                pod,
                phase="Failed" if code else "Succeeded",
                conditions=conditions,
                containerStatuses=[_container(pod, {"terminated": ended})],
            )

    def prepare(self, name: str, record: TerminationRecord, run: int = 1) -> None:
        """The preparation of a run succeeds."""
        self.end(self.run(name, names.prepare_name(name, run, 1)), 0, record)

    def explain(self, name: str) -> str:
        import yaml

        lines = [yaml.safe_dump(self.get(name).get("status", {}), sort_keys=False)]
        for job in self.api.children(JOBS, self.namespace, name):
            lines.append(f"--- Job {job['metadata']['name']}: {job.get('status')}")
        for pod in self.api.children(PODS, self.namespace, name):
            lines.append(f"--- Pod {pod['metadata']['name']}: {pod.get('status')}")
        for event in self.api.list(EVENTS, self.namespace):
            lines.append(f"--- {event['involvedObject'].get('name')}: {event['reason']}: {event['message']}")
        return "\n".join([*lines, "--- log", self.log()[-6000:]])


def _container(pod: Object, state: Object, *, ready: bool = False) -> Object:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }
