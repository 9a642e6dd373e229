"""kind, where Docker is: a control plane and two workers as containers, our S3 server on their network's gateway."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from dev.localcluster import docker, gobuild, gpus, helm, images, s3
from dev.localcluster.cleanup import remove_folders
from dev.localcluster.commands import output_of, succeeds
from dev.localcluster.console import step
from dev.localcluster.daemons import Daemons
from dev.localcluster.kubectl import Kubectl, find_kubectl
from dev.localcluster.layout import ROOT, Layout
from dev.localcluster.lock import Lock
from dev.localcluster.s3 import S3
from dev.localcluster.waiting import until

NAME = "finetune"
_HOST = "localhost"  # images are loaded, never pulled: no registry has this name


class KindCluster:
    """The kind cluster `finetune`, made from kind-config.yaml."""

    context = f"kind-{NAME}"
    nodes = (f"{NAME}-worker", f"{NAME}-worker2")

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout.default()
        self._state = self.layout.state.with_name("kind")
        self._daemons = Daemons(self._state / "daemons")
        self._lock = Lock(self.layout.cache / "kind.lock")

    @property
    def kubeconfig(self) -> Path:
        return self._state / "kubeconfig"

    @functools.cached_property
    def kubectl(self) -> Kubectl:
        program = find_kubectl() or gobuild.build(gobuild.KUBERNETES, self.layout.cache) / "kubectl"
        return Kubectl(program, self.kubeconfig, self.context)

    @functools.cached_property
    def helm(self) -> Path:
        return helm.ensure(self.layout.cache)

    @property
    def s3(self) -> S3:
        """The storage; needs the cluster's network, so the cluster comes first."""
        return s3.local(self._state, self._gateway)

    @functools.cached_property
    def _gateway(self) -> str:
        """The host's address on kind's Docker network: pods reach it, and so do we."""
        configs = json.loads(output_of("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
        return next(str(config["Gateway"]) for config in configs if "." in config.get("Gateway", ""))

    def ensure_control_plane(self) -> None:
        """kind makes the nodes along with it."""
        with self._lock():
            if NAME not in output_of("kind", "get", "clusters").split():
                self._state.mkdir(parents=True, exist_ok=True)
                with step("kind cluster"):
                    output_of(
                        "kind",
                        "create",
                        "cluster",
                        f"--name={NAME}",
                        f"--config={ROOT / 'kind-config.yaml'}",
                        f"--kubeconfig={self.kubeconfig}",
                        "--wait=120s",
                    )
            elif not self.kubeconfig.exists():
                output_of("kind", "export", "kubeconfig", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}")

    def ensure_nodes(self, count: int = 2) -> None:
        with self._lock():
            self.ensure_control_plane()
            storage = self.s3
            daemon = s3.daemon(
                storage,
                address=self._gateway,
                data=self._state / "s3",
                folder=self._daemons.folder / s3.NAME,
                sockets=self._state,
            )
            (self._state / "s3").mkdir(parents=True, exist_ok=True)
            if self._daemons.ensure(daemon, lambda: s3.is_ready(storage)):
                s3.ensure_bucket(storage)
            self.kubectl.apply(*s3.manifests(self._gateway))
            self.kubectl("wait", "--for=condition=Ready", "node", *self.nodes[:count], "--timeout=90s", timeout=100)
            if not gpus.are_there(self.kubectl, self.nodes[1]):
                self.fake_gpus()

    def build(self, images: Iterable[str]) -> None:
        """Nothing: kind downloads its programs, and loads images into nodes that must run."""

    def image(self, name: str) -> str:
        if name == images.BASE:
            return docker.BASE_IMAGE
        with self._lock():
            reference = docker.ensure(name, _HOST)
            present = ("crictl", "inspecti", "--quiet", reference)
            if absent := [node for node in self.nodes if not succeeds("docker", "exec", node, *present)]:
                with step(f"load {name} image"):
                    nodes = f"--nodes={','.join(absent)}"
                    output_of("kind", "load", "docker-image", f"--name={NAME}", nodes, reference, timeout=1800)
        return reference

    def load(self, names: Iterable[str]) -> None:
        for name in names:
            self.image(name)

    def fake_gpus(self, scheme: str = "gfd") -> None:
        gpus.fake(self.kubectl, self.nodes[1], scheme)

    def stop_kubelet(self, node: str) -> None:
        output_of("docker", "exec", node, "systemctl", "stop", "kubelet")

    def start_kubelet(self, node: str) -> None:
        output_of("docker", "exec", node, "systemctl", "start", "kubelet")
        self.kubectl("wait", "--for=condition=Ready", "node", node, "--timeout=90s", timeout=100)
        if node == self.nodes[1]:
            self.fake_gpus()

    def restart_api_server(self) -> None:
        control_plane = ("docker", "exec", f"{NAME}-control-plane", "crictl")
        output_of(*control_plane, "stop", *output_of(*control_plane, "ps", "--quiet", "--name=kube-apiserver").split())
        until("the API server is not back", lambda: self.kubectl.succeeds("get", "--raw", "/readyz"), seconds=120)

    def down(self) -> None:
        """Delete the cluster and stop the storage."""
        with self._lock():
            self._daemons.stop(self._daemons.names(), grace=3)
            output_of("kind", "delete", "cluster", f"--name={NAME}", f"--kubeconfig={self.kubeconfig}")
            remove_folders([self._state])
