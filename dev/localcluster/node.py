"""A node: one containerd and one kubelet, of which this machine runs two side by side.

Two kubelets on one machine share nothing: own containerd (root, state, socket), own kubelet folder, certificates,
ports, cgroup root, address on the bridge, and own pod logs: with the shared /var/log/pods one deletes the other's.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.localcluster.daemons import Daemon
from dev.localcluster.layout import CONTEXT, NODE_LABEL, Layout
from dev.localcluster.pki import Authority

PAUSE_IMAGE = "localhost/finetune-pause:1"
NETWORK = "finetune-localcluster"


@dataclass(frozen=True)
class Node:
    """The folders, ports and names of node 1, 2, …"""

    index: int
    layout: Layout

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def address(self) -> str:
        return self.layout.addresses.node(self.index)

    @property
    def folder(self) -> Path:
        return self.layout.state / self.name

    @property
    def run(self) -> Path:
        return self.layout.run / self.name

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def images(self) -> Path:
        """containerd's store. It outlives the cluster: images are the slow part of a start."""
        return self.layout.cache / "nodes" / self.name

    @property
    def cgroup(self) -> str:
        return f"/{self.layout.cgroup}/{self.name}"

    @property
    def kubelet_port(self) -> int:
        return 10250 + 100 * (self.index - 1)

    @property
    def health_port(self) -> int:
        return 10248 + 100 * (self.index - 1)

    @property
    def containerd(self) -> str:
        """The name of its daemon."""
        return f"containerd-{self.name}"

    @property
    def kubelet(self) -> str:
        """The name of its daemon."""
        return f"kubelet-{self.name}"

    def ctr(self, *words: str) -> tuple[str, ...]:
        """The command that talks to this node's containerd."""
        return ("ctr", "--address", str(self.socket), "--namespace", "k8s.io", *words)


def containerd_daemon(node: Node) -> Daemon:
    config = node.layout.daemons / node.containerd / "config.toml"
    conflist = node.folder / "cni/10-bridge.conflist"
    return Daemon(
        node.containerd,
        ("containerd", f"--config={config}"),
        files={config: render_containerd(node), conflist: json.dumps(render_network(node.layout), indent=1)},
    )


def render_containerd(node: Node) -> str:
    """containerd's configuration (its TOML knows JSON's strings)."""
    return f"""\
version = 2
root = "{node.images}"
state = "{node.run}/state"

[grpc]
  address = "{node.socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE a negative oom_score_adj is refused, and runc dies with
  # "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  # Below our own folder instead of /run/netns, so that `down` knows whose they are.
  netns_mounts_under_state_dir = true
  max_concurrent_downloads = 2
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Unpacked they are enough: half the disk per node.
    discard_unpacked_layers = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node.folder}/cni"
"""


def render_network(layout: Layout) -> dict[str, Any]:
    """The CNI network. Both nodes use one range and one ledger of given addresses, as they share one bridge."""
    addresses = layout.addresses
    ranges = [[{"subnet": addresses.pod_range, "rangeStart": addresses.first_pod, "gateway": addresses.gateway}]]
    bridge = {
        "type": "bridge",
        "bridge": addresses.bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{layout.run}/addresses",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kubelet_daemon(node: Node, program: Path, authority: Authority, name_servers: list[str]) -> Daemon:
    identity = authority.issue(
        node.name, f"system:node:{node.name}", group="system:nodes", names=[node.name, node.address, "127.0.0.1"]
    )
    folder = node.layout.daemons / node.kubelet
    kubeconfig = authority.kubeconfig(identity, server=node.layout.api_server, context=CONTEXT)
    resolv_conf = "".join(f"nameserver {address}\n" for address in name_servers)
    return Daemon(
        node.kubelet,
        (
            str(program / "kubelet"),
            f"--config={folder}/config.yaml",
            f"--kubeconfig={folder}/kubeconfig",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels={NODE_LABEL}=true",
            f"--root-dir={node.folder}/kubelet",
            f"--cert-dir={node.folder}/pki",
        ),
        files={
            folder / "config.yaml": yaml.safe_dump(render_kubelet(node, authority, folder), sort_keys=False),
            folder / "kubeconfig": kubeconfig,
            folder / "resolv.conf": resolv_conf,
        },
    )


def render_kubelet(node: Node, authority: Authority, folder: Path) -> dict[str, Any]:
    """The kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": node.kubelet_port,
        "healthzPort": node.health_port,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{authority.folder}/{node.name}.crt",
        "tlsPrivateKeyFile": f"{authority.folder}/{node.name}.key",
        "clusterDNS": [node.layout.addresses.dns_service],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),  # the machine's own may name search domains of its network
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "podLogsDir": str(node.folder / "logs"),
        "failSwapOn": False,
        "evictionHard": {},  # the machine's disk is not the node's to defend
        "imageGCHighThresholdPercent": 100,  # a full disk must not cost the images: they are the slow part
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",  # a patched extended resource becomes allocatable at the next update
        "nodeLeaseDurationSeconds": 20,  # renewed every 5 s
    }


def make_cgroup(path: str, hierarchy: Path = Path("/sys/fs/cgroup")) -> None:
    """The cgroup below which a kubelet puts its pods."""
    if (hierarchy / "cgroup.controllers").exists():  # version 2: one tree; each level hands its controllers down
        folder = hierarchy
        for part in Path(path.lstrip("/")).parts:
            wanted = " ".join(f"+{name}" for name in (folder / "cgroup.controllers").read_text().split())
            (folder / "cgroup.subtree_control").write_text(wanted)
            folder = folder / part
            folder.mkdir(exist_ok=True)
        return
    for controller in sorted({entry.resolve() for entry in hierarchy.iterdir() if entry.is_dir()}):
        folder = controller
        for part in Path(path.lstrip("/")).parts:
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            if controller.name == "cpuset":  # a new one is empty, and an empty one takes no process
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if not (folder / file).read_text().strip():
                        (folder / file).write_text((parent / file).read_text())


def forget_containers(node: Node) -> None:
    """Delete what containerd's CRI plugin remembers of pods; images stay."""
    for folder in ("sandboxes", "containers"):
        shutil.rmtree(node.images / "io.containerd.grpc.v1.cri" / folder, ignore_errors=True)
