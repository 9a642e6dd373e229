"""FineTuneJobs of a test or the demo: apply, read, wait, and what to show when the wait ends without success."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dev.kit.apiserver import ApiServer
from dev.kit.specs import Object
from dev.localcluster.kubectl import Kubectl
from dev.localcluster.waiting import until
from finetune_operator.ports import EVENTS, FINETUNEJOBS, JOBS, PODS, Resource

QUIET_SECONDS = 300.0
"""A wait for a run ends when nothing has moved for so long, however long the run itself takes."""


def load_example(name: str) -> list[Object]:
    """The documents of `examples/<name>`, unchanged."""
    path = Path(__file__).parents[2] / "examples" / name
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def condition(job: Object, kind: str) -> Object:
    """The condition of this type, `{}` when it is absent."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def is_finished(job: Object) -> bool:
    return condition(job, "Succeeded").get("status") in {"True", "False"} and is_observed(job)


def is_observed(job: Object) -> bool:
    return bool(job.get("status", {}).get("observedGeneration") == job["metadata"]["generation"])


def signs_of_progress(job: Object, children: Sequence[Object], events: Sequence[Object]) -> Hashable:
    """A new run, attempt, phase, step, stage or condition; a new child or state of one; a new event about any of them.

    An event that is only counted up again is the opposite of progress, and a message may carry a time.
    """
    status = job.get("status", {})
    progress = status.get("progress", {})
    uids = {item["metadata"]["uid"] for item in (job, *children)}
    return (
        status.get("observedGeneration"),
        *(status.get(key) for key in ("run", "attempt", "prepareAttempt", "phase")),
        *(progress.get(key) for key in ("step", "stage")),
        frozenset((item["type"], item["status"], item["reason"]) for item in status.get("conditions", [])),
        frozenset((child["metadata"]["uid"], _state(child)) for child in children),
        frozenset(event["metadata"]["uid"] for event in events if event["involvedObject"].get("uid") in uids),
    )


def _state(child: Object) -> Hashable:
    """Of a pod: its phase, its node, and what each container does."""
    containers = child.get("status", {}).get("containerStatuses", [])
    states = tuple((item["name"], *sorted(item.get("state", {}))) for item in containers)
    return child.get("status", {}).get("phase"), child.get("spec", {}).get("nodeName"), states


class Jobs:
    """FineTuneJobs and their children in one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        # Asked several times per second: a process for each request would take the cores from the training.
        self._api = ApiServer(kubectl.kubeconfig, kubectl.context)

    def apply(self, job: Mapping[str, Any], *, name: str | None = None) -> str:
        """Server-side apply into the namespace; returns the name."""
        document: Object = copy.deepcopy(dict(job))
        document["metadata"]["namespace"] = self.namespace
        if name:
            document["metadata"]["name"] = name
        self.kubectl.apply(document)
        return str(document["metadata"]["name"])

    def get(self, name: str) -> Object:
        return self._api.get(FINETUNEJOBS, self.namespace, name)

    def exists(self, name: str) -> bool:
        return any(job["metadata"]["name"] == name for job in self._api.list(FINETUNEJOBS, self.namespace))

    def patch(self, name: str, patch: str) -> None:
        self.kubectl("-n", self.namespace, "patch", "finetunejob", name, "--type=merge", "-p", patch)

    def delete(self, name: str, *words: str) -> None:
        self.kubectl("-n", self.namespace, "delete", "finetunejob", name, *words, timeout=180)

    def children(self, name: str, resource: Resource) -> list[Object]:
        return self._api.children(resource, self.namespace, name)

    def pods(self, name: str, role: str = "train") -> list[Object]:
        return [pod for pod in self.children(name, PODS) if pod["metadata"]["labels"]["finetune.dev/role"] == role]

    def signs(self, name: str) -> Hashable:
        """What differs from one look to the next while the job makes progress."""
        children = [child for resource in (JOBS, PODS) for child in self.children(name, resource)]
        return signs_of_progress(self.get(name), children, self._api.list(EVENTS, self.namespace))

    def wait(self, name: str, is_so: Callable[[Object], bool], *, what: str, seconds: float = QUIET_SECONDS) -> Object:
        """The object, once it is so.

        Raises:
            GaveUpError: nothing has moved for `seconds`; with the job's status, pods and logs.
        """

        def look() -> Object | None:
            job = self.get(name)
            return job if is_so(job) else None

        return until(
            f"{name} is {what}",
            look,
            seconds=seconds,
            pause=0.3,
            progress=lambda: self.signs(name),
            explain=lambda: self.explain(self.get(name)),
        )

    def wait_finished(self, name: str) -> Object:
        return self.wait(name, is_finished, what="finished")

    def wait_succeeded(self, name: str) -> Object:
        job = self.wait_finished(name)
        assert condition(job, "Succeeded")["status"] == "True", self.explain(job)
        return job

    def explain(self, job: Object) -> str:
        """Everything that a person would look at next."""
        name = job["metadata"]["name"]
        lines = [yaml.safe_dump(job.get("status", {}), sort_keys=False)]
        for pod in self.children(name, PODS):
            pod_name = pod["metadata"]["name"]
            lines.append(f"--- pod {pod_name}: {pod['status'].get('phase')} on {pod['spec'].get('nodeName')}")
            try:
                lines.append(self.kubectl("-n", self.namespace, "logs", pod_name, "--tail=40"))
            except Exception as error:  # noqa: BLE001 - a diagnosis must not hide the failure it explains
                lines.append(f"(no log: {error})")
        return "\n".join(lines)
