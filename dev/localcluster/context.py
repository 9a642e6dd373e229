"""A cluster of somebody else, named by KUBE_CONTEXT. Nothing is created there but what the tests apply."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from dev.localcluster import docker, gobuild, helm, images, packages, s3
from dev.localcluster.commands import output_of
from dev.localcluster.errors import UnsupportedError
from dev.localcluster.kubectl import Kubectl, find_kubectl
from dev.localcluster.layout import Layout
from dev.localcluster.pull import pull
from dev.localcluster.s3 import S3


class ContextCluster:
    """The named context: images go to IMAGE_REGISTRY, the storage is the one that the environment names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._layout = Layout.default(environ)
        self.context = environ["KUBE_CONTEXT"]

    @property
    def kubeconfig(self) -> Path:
        home = Path(self._environ.get("HOME", "/"))
        return Path(self._environ.get("KUBECONFIG") or home / ".kube/config")

    @functools.cached_property
    def kubectl(self) -> Kubectl:
        program = find_kubectl() or gobuild.build(gobuild.KUBERNETES, self._layout.cache) / "kubectl"
        return Kubectl(program, self.kubeconfig, self.context)

    @functools.cached_property
    def helm(self) -> Path:
        return helm.ensure(self._layout.cache)

    @property
    def s3(self) -> S3:
        return s3.from_environment(self._environ)

    @functools.cached_property
    def nodes(self) -> tuple[str, str]:
        """The first two nodes that take pods."""
        items = self.kubectl.get("nodes")["items"]
        free = [
            item for item in items if not any(t["effect"] != "PreferNoSchedule" for t in item["spec"].get("taints", []))
        ]
        names = sorted(item["metadata"]["name"] for item in free)
        if len(names) < 2:
            raise UnsupportedError(f"{self.context} has {len(names)} nodes that take any pod, two are needed")
        return names[0], names[1]

    def ensure_control_plane(self) -> None:
        self.kubectl("get", "--raw", "/readyz")

    def ensure_nodes(self, count: int = 2) -> None:
        self.ensure_control_plane()
        if count > 1:
            assert self.nodes

    def build(self, images: Iterable[str]) -> None:
        for name in images:
            self.image(name)

    def image(self, name: str) -> str:
        if name == images.BASE:
            return docker.BASE_IMAGE
        host = self._environ.get("IMAGE_REGISTRY")
        if not host:
            raise UnsupportedError("set IMAGE_REGISTRY to a registry that you may push to and the cluster pulls from")
        if not docker.is_usable():
            packages.ensure(packages.BUILD)
            return images.Buildah(self._layout).publish(name, host)
        reference = docker.ensure(name, host)
        output_of("docker", "push", reference, timeout=3600)
        return reference

    def load(self, names: Iterable[str]) -> None:
        for name in names:
            pull(self.kubectl, self.image(name), self.nodes)

    def fake_gpus(self, scheme: str = "gfd") -> None:
        raise UnsupportedError("the nodes of a named context are not ours to patch")

    def stop_kubelet(self, node: str) -> None:
        raise UnsupportedError("the nodes of a named context are not ours to stop")

    def start_kubelet(self, node: str) -> None:
        raise UnsupportedError("the nodes of a named context are not ours to start")

    def restart_api_server(self) -> None:
        raise UnsupportedError("the API server of a named context is not ours to restart")

    def down(self) -> None:
        """Nothing: it is not ours."""
