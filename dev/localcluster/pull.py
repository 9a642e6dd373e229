"""Bring an image to nodes before a pod needs it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from dev.localcluster.console import step
from dev.localcluster.kubectl import Kubectl, Manifest
from dev.localcluster.waiting import until

_NAMESPACE = "kube-system"


class PullError(RuntimeError):
    """The node cannot get the image."""


def pull(kubectl: Kubectl, image: str, nodes: Iterable[str], *, seconds: float = 900) -> None:
    """Through the kubelet, like any pod's image: a short pod on each node, bound to it past the scheduler."""
    pods = {node: pull_pod(image, node) for node in nodes}
    names = [pod["metadata"]["name"] for pod in pods.values()]
    kubectl("delete", "pod", f"--namespace={_NAMESPACE}", "--ignore-not-found", "--now", *names)
    kubectl.apply(*pods.values())
    try:
        with step(f"pull {image.rpartition('/')[2]} to {', '.join(pods)}") as show:

            def done() -> bool:
                pending = [node for node, pod in pods.items() if not has_image(kubectl.get("pod", *_where(pod)))]
                show(f"{len(pods) - len(pending)} of {len(pods)} nodes have it")
                return not pending

            until(f"{image} is not on its nodes", done, seconds=seconds, pause=0.3)
    finally:
        kubectl("delete", "pod", f"--namespace={_NAMESPACE}", "--ignore-not-found", "--now", *names)


def _where(pod: Manifest) -> tuple[str, str]:
    return f"--namespace={_NAMESPACE}", pod["metadata"]["name"]


def pull_pod(image: str, node: str) -> Manifest:
    """A pod that needs nothing but the image."""
    digest = hashlib.sha256(image.encode()).hexdigest()[:8]
    container = {
        "name": "pull",
        "image": image,
        "command": ["/bin/true"],
        "imagePullPolicy": "IfNotPresent",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": _NAMESPACE, "name": f"pull-{digest}-{node}"},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


def has_image(pod: dict[str, Any]) -> bool:
    """Whether the container came as far as being created; PullError when the image cannot be had."""
    for status in pod["status"].get("containerStatuses", []):
        waiting = status["state"].get("waiting", {})
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            raise PullError(waiting.get("message", waiting["reason"]))
        if "waiting" not in status["state"]:
            return True
    return False
