"""What tests and demo may ask of a cluster, and which of the three kinds of cluster they get."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dev.localcluster.commands import succeeds

if TYPE_CHECKING:
    from dev.localcluster.kubectl import Kubectl
    from dev.localcluster.s3 import S3


@runtime_checkable
class Cluster(Protocol):
    """A Kubernetes with two worker nodes, S3 storage and a way for images."""

    @property
    def context(self) -> str: ...

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def kubectl(self) -> Kubectl: ...

    @property
    def helm(self) -> Path:
        """The program."""
        ...

    @property
    def s3(self) -> S3:
        """The storage; started when it is ours and not running."""
        ...

    @property
    def nodes(self) -> tuple[str, str]:
        """The names of the two workers. The second one pretends to have GPUs."""
        ...

    def build(self, images: Iterable[str]) -> None:
        """What takes minutes the first time: the programs of the cluster, and images. Nothing is started."""
        ...

    def ensure_control_plane(self) -> None:
        """An API server with its controllers."""
        ...

    def ensure_nodes(self, count: int = 2) -> None:
        """Ready nodes, cluster DNS, storage."""
        ...

    def image(self, name: str) -> str:
        """The reference under which pods find the image `operator`, `trainer` or `base`; built when missing."""
        ...

    def load(self, names: Iterable[str]) -> None:
        """Bring images to the nodes now, so that the first pod does not wait for it."""
        ...

    def fake_gpus(self, scheme: str = "gfd") -> None:
        """Give the second node its GPUs and their labels again: a restart of its kubelet takes them away."""
        ...

    def stop_kubelet(self, node: str) -> None:
        """Lose a node: its pods run on, unseen."""
        ...

    def start_kubelet(self, node: str) -> None:
        """Get it back."""
        ...

    def restart_api_server(self) -> None:
        """Break every connection to the API."""
        ...

    def down(self) -> None:
        """Remove the cluster if it is ours."""
        ...


def choose(environ: Mapping[str, str] = os.environ) -> str:
    """`context` when one is named, `kind` where Docker and kind are there, else `local`."""
    if environ.get("KUBE_CONTEXT"):
        return "context"
    if shutil.which("kind") and shutil.which("docker") and succeeds("docker", "info", timeout=10):
        return "kind"
    return "local"


def connect(environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster to use. Nothing is started yet, and a context that we did not create must be named."""
    match choose(environ):
        case "context":
            from dev.localcluster.context import ContextCluster

            return ContextCluster(environ)
        case "kind":
            from dev.localcluster.kind import KindCluster

            return KindCluster()
        case _:
            from dev.localcluster.local import LocalCluster

            return LocalCluster()
