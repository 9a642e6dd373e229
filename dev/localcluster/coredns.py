"""Cluster DNS: CoreDNS as a process on the bridge, behind the usual Service address."""

from __future__ import annotations

from pathlib import Path

from dev.localcluster.daemons import Daemon
from dev.localcluster.kubectl import Manifest
from dev.localcluster.layout import Layout
from dev.localcluster.services import service_to

NAME = "coredns"
_READY_PORT = 8181


def daemon(program: Path, layout: Layout, kubeconfig: str, name_servers: list[str]) -> Daemon:
    folder = layout.daemons / NAME
    corefile = render(layout.addresses.gateway, folder / "kubeconfig", name_servers)
    return Daemon(
        NAME,
        (str(program / "coredns"), f"-conf={folder}/Corefile", "-quiet"),
        files={folder / "Corefile": corefile, folder / "kubeconfig": kubeconfig},
    )


def render(address: str, kubeconfig: Path, name_servers: list[str]) -> str:
    """The Corefile. No cache: answers come from memory, and a stale "no such name" delays every rendezvous."""
    forward = f"    forward . {' '.join(name_servers)}\n" if name_servers else ""
    return f"""\
. {{
    bind {address}
    ready {address}:{_READY_PORT}
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
        fallthrough in-addr.arpa ip6.arpa
    }}
{forward}}}
"""


def ready_url(layout: Layout) -> str:
    return f"http://{layout.addresses.gateway}:{_READY_PORT}/ready"


def manifests(layout: Layout) -> list[Manifest]:
    """kube-dns by its usual name and address."""
    ports = [("dns", 53, 53, "UDP"), ("dns-tcp", 53, 53, "TCP")]
    return service_to(
        "kube-system", "kube-dns", layout.addresses.gateway, ports, cluster_ip=layout.addresses.dns_service
    )
