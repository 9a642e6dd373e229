"""The two CRDs as the tests of the API see them: their schemas, minimal valid objects, and a client that only asks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from dev.kit.specs import Object, minimal_job

FOLDER = Path(__file__).parents[2] / "crds"
NAMESPACE = "default"

JOB: Object = minimal_job()
CLASS: Object = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "GPUClass",
    "metadata": {"name": "not-of-the-chart"},
    "spec": {
        "resourceName": "nvidia.com/gpu",
        "memory": "79Gi",
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]}],
    },
}


def crd(kind: str) -> Object:
    documents = [yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")]
    [found] = [document for document in documents if document["spec"]["names"]["kind"] == kind]
    return dict(found)


def schema(kind: str) -> Object:
    [version] = crd(kind)["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


@dataclass(frozen=True)
class Node:
    """One place of a schema; `path` leads to it in an object (0 for a list's item)."""

    path: str
    schema: Object


def walk(node: Object, path: str = "") -> Iterator[Node]:
    """Every place of a schema but the status, from the outside in."""
    yield Node(path, node)
    for name, child in node.get("properties", {}).items():
        if path or name != "status":
            yield from walk(child, f"{path}.{name}".lstrip("."))
    if "items" in node:
        yield from walk(node["items"], f"{path}.0")


class Api:
    """The API server, asked what it would say: nothing is stored unless a method says so."""

    def __init__(self, kubeconfig: Path, context: str | None) -> None:
        self._client = config.new_client_from_config(config_file=str(kubeconfig), context=context)
        self._objects = client.CustomObjectsApi(self._client)

    def close(self) -> None:
        self._client.close()

    def refusal(self, obj: Object) -> str | None:
        """What a user reads when this object is created, None when it is accepted."""
        try:
            self.create(obj)
        except client.ApiException as error:
            return str(json.loads(error.body)["message"])
        return None

    def create(self, obj: Object, *, dry_run: bool = True) -> Object:
        """As the API server returns it, defaults filled in."""
        options = {"field_validation": "Strict"} | ({"dry_run": "All"} if dry_run else {})
        if obj["kind"] == "GPUClass":
            return dict(
                self._objects.create_cluster_custom_object("finetune.dev", "v1alpha1", "gpuclasses", obj, **options)
            )
        place = ("finetune.dev", "v1alpha1", obj["metadata"].get("namespace", NAMESPACE), "finetunejobs")
        return dict(self._objects.create_namespaced_custom_object(*place, obj, **options))


def install(kubectl: Any) -> None:
    """The CRDs of this checkout; quick when they are there already."""
    before = _generations(kubectl)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(FOLDER))
    kubectl("wait", "--for=condition=Established", "-f", str(FOLDER))
    if _generations(kubectl) != before:
        time.sleep(2)  # the server takes up a new schema a moment after it has stored it


def _generations(kubectl: Any) -> dict[str, int]:
    items = kubectl.get("crd")["items"]
    return {item["metadata"]["name"]: item["metadata"]["generation"] for item in items}
