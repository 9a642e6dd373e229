"""Where the cluster keeps its files and which addresses it uses. Pure: nothing here touches the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = "finetune-localcluster"
KUBERNETES_VERSION = "v1.34.4"
HELM_VERSION = "v4.0.5"
NODE_LABEL = "finetune.dev/localcluster"

ROOT = Path(__file__).resolve().parents[2]  # of the repository
SOURCES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Addresses:
    """The cluster's own network: one bridge on the host, behind it every pod of both nodes."""

    bridge: str = "finetune0"
    prefix: str = "10.188"  # not podman's 10.88
    service_range: str = "10.96.0.0/16"
    dns_service: str = "10.96.0.10"
    api_service: str = "10.96.0.1"

    @property
    def gateway(self) -> str:
        """The bridge's address: what pods can reach of the host. API server, DNS and S3 listen here."""
        return f"{self.prefix}.0.1"

    @property
    def pod_range(self) -> str:
        return f"{self.prefix}.0.0/16"

    @property
    def first_pod(self) -> str:
        return f"{self.prefix}.1.1"

    def node(self, index: int) -> str:
        """The address of node 1, 2, …: a further address on the bridge."""
        return f"{self.prefix}.0.{10 + index}"


@dataclass(frozen=True)
class Layout:
    """The folders. `state` and `run` end with the cluster, `cache` outlives it."""

    state: Path
    cache: Path
    run: Path = Path("/run/finetune-localcluster")
    cgroup: str = "finetune-localcluster"
    addresses: Addresses = field(default_factory=Addresses)

    @classmethod
    def default(cls, environ: Mapping[str, str] = os.environ) -> Layout:
        """The XDG folders of this user."""
        home = Path(environ.get("HOME", "/root"))
        state = Path(environ.get("XDG_STATE_HOME") or home / ".local/state")
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        return cls(state=state / "finetune-operator/localcluster", cache=cache / "finetune-operator")

    @property
    def daemons(self) -> Path:
        return self.state / "daemons"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.state / "audit.log"

    @property
    def api_server(self) -> str:
        return f"https://{self.addresses.gateway}:6443"

    @property
    def buildah(self) -> Path:
        return self.cache / "buildah"

    @property
    def mount_roots(self) -> tuple[Path, ...]:
        """Every mount below these is ours: sandboxes, root file systems, projected tokens, image builds."""
        return self.run, self.state, self.cache
