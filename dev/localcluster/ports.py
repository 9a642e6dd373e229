"""The ports that the cluster listens on, and who has them where it is not us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dev.localcluster.errors import CurableError
from dev.localcluster.layout import Layout

_LISTENING = "0A"
_EVERYWHERE = {"0.0.0.0", "::"}
_LOOPBACK = "127.0.0.1"


def by_daemon(layout: Layout) -> dict[str, list[tuple[str, int]]]:
    """What each daemon listens on. The bridge's address is ours alone, but somebody may listen on every address."""
    bridge = layout.addresses.gateway
    return {
        "etcd": [(_LOOPBACK, 12379), (_LOOPBACK, 12380)],
        "kube-apiserver": [(bridge, 6443)],
        "kube-controller-manager": [(_LOOPBACK, 10257)],
        "kube-scheduler": [(_LOOPBACK, 10259)],
        "kube-proxy": [(_LOOPBACK, 10249), (_LOOPBACK, 10256)],
        "coredns": [(bridge, 53), (bridge, 8181)],
        "s3": [(bridge, port) for port in (8333, 18333, 9333, 19333, 8080, 18080, 8888, 18888)],
        **{
            f"kubelet-node{index}": [
                (layout.addresses.node(index), 10250 + 100 * (index - 1)),
                (_LOOPBACK, 10248 + 100 * (index - 1)),
            ]
            for index in (1, 2)
        },
    }


def check(needs: Mapping[str, Iterable[tuple[str, int]]], proc: Path = Path("/proc")) -> None:
    """CurableError where a daemon that is to start would meet somebody on its port."""
    taken = listeners(proc)
    for daemon, places in needs.items():
        for address, port in places:
            for other, inode in taken.get(port, []):
                if other == address or other in _EVERYWHERE:
                    raise CurableError(
                        f"port {port} on {address}, which {daemon} needs, is taken by {owner(inode, proc)}",
                        f"Stop that process, then run the command again. `ss -ltnp 'sport = :{port}'` shows it.",
                    )


def listeners(proc: Path) -> dict[int, list[tuple[str, str]]]:
    """Port → address and socket inode of each process that listens on it."""
    found: dict[int, list[tuple[str, str]]] = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                address, _, port = words[1].partition(":")
                if words[3] == _LISTENING:
                    found.setdefault(int(port, 16), []).append((readable(address), words[9]))
    return found


def readable(address: str) -> str:
    """An address of /proc/net/tcp, which has the bytes of each word backwards. IPv6 only where it holds an IPv4."""
    if len(address) == 32:
        if not int(address, 16):
            return "::"
        if not address.startswith("0000000000000000FFFF0000"):
            return address
        address = address[-8:]
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))


def owner(inode: str, proc: Path) -> str:
    """`nginx (process 12)`, as far as it can be seen."""
    for link in proc.glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if re.fullmatch(rf"socket:\[{inode}\]", str(link.readlink())):
                pid = link.parent.parent
                return f"{(pid / 'comm').read_text().strip()} (process {pid.name})"
    return "a process that cannot be seen from here"
