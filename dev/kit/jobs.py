"""FineTuneJobs of a test: apply, read, wait, and what to say when the wait was in vain."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dev.kit.apiserver import ApiServer
from dev.localcluster.kubectl import Kubectl
from finetune_operator.ports import FINETUNEJOBS, PODS, Resource

Object = dict[str, Any]


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


class Jobs:
    """FineTuneJobs and their children in one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        # What is asked for several times a second: a process each time would take the cores from the training.
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

    def wait(
        self,
        name: str,
        until: Callable[[Object], bool],
        *,
        what: str,
        seconds: float = 240,
        forbid: Callable[[Object], bool] = lambda job: False,
    ) -> Object:
        """Poll the object until it is so. Raises AssertionError with its conditions, pods and logs otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.get(name)
            if until(job):
                return job
            if forbid(job) or time.monotonic() > deadline:
                raise AssertionError(f"{name}: not {what} after {seconds:g} s at most\n{self.explain(job)}")
            time.sleep(0.3)

    def wait_finished(self, name: str, *, seconds: float = 300) -> Object:
        return self.wait(name, is_finished, what="finished", seconds=seconds)

    def wait_succeeded(self, name: str, *, seconds: float = 300) -> Object:
        job = self.wait_finished(name, seconds=seconds)
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
