"""The bridge that pods of both nodes share, its addresses, and the kernel settings they need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dev.localcluster.commands import output_of
from dev.localcluster.layout import Addresses, Layout

SETTINGS: Mapping[str, str] = {"net.ipv4.ip_forward": "1"}  # pods reach the host's network and each other's node
# Set by kubelet and kube-proxy on their own account; remembered here so that `down` can put them back.
TOUCHED = (
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
# Folders that kubelet, CNI, containerd's shims and buildah use whatever they are told.
FOREIGN_FOLDERS = tuple(
    map(Path, ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/etc/cni", "/run/containerd"))
)


def remember(layout: Layout) -> None:
    """Note down the machine as it was, once, before anything is changed."""
    record = layout.state / "machine.json"
    if record.exists():
        return
    settings = {name: value for name in (*SETTINGS, *TOUCHED) if (value := _read(name)) is not None}
    absent = [str(folder) for folder in FOREIGN_FOLDERS if not folder.exists()]
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"settings": settings, "absent_folders": absent}, indent=1))


def recall(layout: Layout) -> tuple[dict[str, str], list[Path]]:
    """The settings as they were, and the folders that were not there."""
    try:
        record = json.loads((layout.state / "machine.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}, []
    return record["settings"], [Path(folder) for folder in record["absent_folders"]]


def ensure(layout: Layout) -> None:
    """The bridge with the gateway's address."""
    addresses = layout.addresses
    for name, value in SETTINGS.items():
        write(name, value)
    if not Path(f"/sys/class/net/{addresses.bridge}").exists():
        output_of("ip", "link", "add", addresses.bridge, "type", "bridge")
    add_address(addresses, addresses.gateway)
    output_of("ip", "link", "set", addresses.bridge, "up")


def add_address(addresses: Addresses, address: str) -> None:
    """One more address on the bridge, unless it has it."""
    if address not in addresses_of(output_of("ip", "-json", "address", "show", "dev", addresses.bridge)):
        output_of("ip", "address", "add", f"{address}/16", "dev", addresses.bridge)


def addresses_of(ip_json: str) -> set[str]:
    """The addresses in the output of `ip -json address`."""
    return {info["local"] for link in json.loads(ip_json or "[]") for info in link.get("addr_info", [])}


def name_servers(resolv_conf: str) -> list[str]:
    """The name servers that a process outside the host's loopback can use too."""
    words = [line.split() for line in resolv_conf.splitlines()]
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver" and not line[1].startswith("127.")]


def host_name_servers() -> list[str]:
    try:
        return name_servers(Path("/etc/resolv.conf").read_text())
    except FileNotFoundError:
        return []


def write(name: str, value: str) -> None:
    """Set a kernel setting."""
    path = _path(name)
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)


def _read(name: str) -> str | None:
    return _path(name).read_text().strip() if _path(name).exists() else None


def _path(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
