"""Find and remove what a cluster leaves on the machine, also after a crash.

Parsing is pure and separate from looking and removing. Nothing is touched that cannot be recognised as ours: processes
by their pid record, their cgroup or our socket on their command line; mounts by our folders; interfaces by our bridge.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.daemons import Daemons, read_stat, send
from dev.localcluster.layout import Layout
from dev.localcluster.node import NETWORK
from dev.localcluster.waiting import until

_TABLES = ("raw", "mangle", "nat", "filter")
_FAMILIES = ("iptables", "ip6tables")
_CHAIN = re.compile(r"\b(KUBE-|CNI-)")
_CGROUPS = Path("/sys/fs/cgroup")
_CNI_RESULTS = Path("/var/lib/cni/results")


def mounts_below(proc_mounts: str, roots: Iterable[Path]) -> list[str]:
    """The mount points at or below `roots`, innermost first."""
    points = [_unescape(line.split(" ")[1]) for line in proc_mounts.splitlines() if line]
    ours = [point for point in points if any(Path(point).is_relative_to(root) for root in roots)]
    return sorted(ours, key=lambda point: point.count("/"), reverse=True)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def our_chains(save: str) -> list[str]:
    """The chains of kube-proxy, kubelet and CNI in the output of iptables-save."""
    return [line.split()[0][1:] for line in save.splitlines() if line.startswith(":") and _CHAIN.search(line)]


def without_our_chains(save: str) -> str:
    """The same rules without ours, as input of iptables-restore."""
    return "".join(f"{line}\n" for line in save.splitlines() if not _CHAIN.search(line))


def is_shim(command_line: Sequence[str], run: Path) -> bool:
    """Whether it is the containerd shim of one of our pods: shims outlive their containerd, and have no pid record."""
    if not command_line or Path(command_line[0]).name != "containerd-shim-runc-v2":
        return False
    return any(Path(word).is_relative_to(run) for word in command_line[1:] if word.startswith("/"))


def processes(layout: Layout, daemons: Daemons) -> dict[int, str]:
    """Every process of the cluster: daemons, shims, and whatever runs in a pod."""
    found = {pid: name for name in daemons.names() if (pid := daemons.pid(name))}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if is_shim(words, layout.run):
                found.setdefault(int(entry.name), "containerd-shim")
    for folder in cgroups(layout):
        with suppress(OSError, ValueError):
            for pid in map(int, (folder / "cgroup.procs").read_text().split()):
                found.setdefault(pid, "in a pod")
    return {pid: name for pid, name in found.items() if (stat := read_stat(pid)) and stat.state not in "ZX"}


def cgroups(layout: Layout) -> list[Path]:
    """Our cgroup folders, innermost first."""
    tops = {path.resolve() for path in (*_CGROUPS.glob(layout.cgroup), *_CGROUPS.glob(f"*/{layout.cgroup}"))}
    folders = [folder for top in tops for folder in (top, *top.rglob("*")) if folder.is_dir()]
    return sorted(folders, key=lambda folder: len(folder.parts), reverse=True)


def veths(layout: Layout) -> list[str]:
    """The host's ends of our pods' network links."""
    return sorted(path.name for path in Path(f"/sys/class/net/{layout.addresses.bridge}/brif").glob("*"))


def leftovers(layout: Layout, daemons: Daemons) -> list[str]:
    """Everything of the cluster that is still there, one line each."""
    found = [f"process {pid} ({name})" for pid, name in processes(layout, daemons).items()]
    found += [f"mount {point}" for point in _mounts(layout)]
    found += [f"link {name}" for name in veths(layout)]
    if Path(f"/sys/class/net/{layout.addresses.bridge}").exists():
        found.append(f"bridge {layout.addresses.bridge}")
    for family in _FAMILIES:
        for table in _TABLES:
            found += [f"{family} chain {chain} in {table}" for chain in our_chains(_save(family, table))]
    found += [f"cgroup {folder}" for folder in cgroups(layout)]
    found += [f"file {path}" for path in _CNI_RESULTS.glob(f"{NETWORK}-*")]
    found += [f"folder {path}" for path in (layout.run, layout.state) if path.exists()]
    return found


def kill_all(layout: Layout, daemons: Daemons) -> None:
    """Kill what still runs. A fork can slip through one look, so look until nothing is found."""

    def gone() -> bool:
        alive = processes(layout, daemons)
        for pid in alive:
            send(pid, signal.SIGKILL)
        return not alive

    until("processes survive SIGKILL", gone, seconds=20, pause=0.05)


def unmount_all(layout: Layout) -> None:
    """Detach every mount below our folders: a busy one goes when its last user does."""
    for point in _mounts(layout):
        with suppress(CommandError):
            output_of("umount", "--lazy", point)


def remove_network(layout: Layout) -> None:
    """Bridge, links, iptables chains, CNI's notes."""
    for link in (*veths(layout), layout.addresses.bridge):
        with suppress(CommandError):  # a veth may have gone with its pod's network namespace meanwhile
            output_of("ip", "link", "delete", link)
    remove_chains()
    for path in _CNI_RESULTS.glob(f"{NETWORK}-*"):
        path.unlink(missing_ok=True)


def remove_chains() -> None:
    """Rewrite each table without our chains, in one stroke: other programs' rules stay."""
    for family in _FAMILIES:
        for table in _TABLES:
            save = _save(family, table)
            if our_chains(save):
                output_of(f"{family}-restore", f"--table={table}", stdin=without_our_chains(save))


def remove_cgroups(layout: Layout) -> None:
    """A cgroup goes only when it is empty, and its processes may take a moment to end."""

    def gone() -> bool:
        folders = cgroups(layout)
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        return not folders

    until("cgroups stay busy", gone, seconds=10, pause=0.05)


def remove_folders(folders: Iterable[Path], mounted: str | None = None) -> None:
    """Delete folders, but never through a mount: below one may lie somebody's data."""
    text = mounted if mounted is not None else Path("/proc/self/mounts").read_text()
    for folder in folders:
        if busy := mounts_below(text, [folder]):
            raise RuntimeError(f"{folder} is not deleted: {', '.join(busy)} still mounted")
        shutil.rmtree(folder, ignore_errors=True)


def _mounts(layout: Layout) -> list[str]:
    return mounts_below(Path("/proc/self/mounts").read_text(), layout.mount_roots)


def _save(family: str, table: str) -> str:
    program = shutil.which(f"{family}-save") or f"/usr/sbin/{family}-save"
    try:
        done = subprocess.run([program, "--table", table], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
