"""What is recognised as ours, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.localcluster import cleanup, network
from dev.localcluster.layout import Layout

MOUNTS = """\
proc /proc proc rw 0 0
overlay /run/ours/node1/state/rootfs overlay rw 0 0
shm /run/ours/node1/state/shm tmpfs rw 0 0
tmpfs /run/ours/node1/state/shm/deeper tmpfs rw 0 0
tmpfs /run/ours-not/x tmpfs rw 0 0
tmpfs /state/with\\040blank tmpfs rw 0 0
tmpfs /mnt/run/ours tmpfs rw 0 0
"""
RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:CNI-0a1b2c - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.188.1.1/32 -j CNI-0a1b2c
-A CNI-0a1b2c -d 10.188.0.0/16 -j ACCEPT
COMMIT
"""
RUN = Path("/run/ours")


def test_mounts_below_our_folders_innermost_first() -> None:
    assert cleanup.mounts_below(MOUNTS, [RUN, Path("/state")]) == [
        "/run/ours/node1/state/shm/deeper",
        "/run/ours/node1/state/rootfs",
        "/run/ours/node1/state/shm",
        "/state/with blank",
    ]


def test_chains_of_kubernetes_and_cni_are_ours() -> None:
    assert cleanup.our_chains(RULES) == ["KUBE-SERVICES", "CNI-0a1b2c"]


def test_the_rules_of_others_stay() -> None:
    assert cleanup.without_our_chains(RULES).splitlines() == [
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        ":DOCKER - [0:0]",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "COMMIT",
    ]


@pytest.mark.parametrize(
    ("words", "want"),
    [
        pytest.param(
            ["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", "/run/ours/node1/containerd.sock"],
            True,
            id="a shim that reports to our socket",
        ),
        pytest.param(
            ["/usr/bin/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock"],
            False,
            id="a shim of the machine's own containerd",
        ),
        pytest.param(["tail", "-f", "/run/ours/log"], False, id="a program that happens to name our folder"),
        pytest.param([""], False, id="a kernel thread"),
        pytest.param([], False, id="a process that ended meanwhile"),
    ],
)
def test_shims(words: list[str], want: bool) -> None:
    assert cleanup.is_shim(words, RUN) is want


def test_nothing_is_deleted_through_a_mount(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(RuntimeError, match="still mounted"):
        cleanup.remove_folders([tmp_path], mounted=f"x {tmp_path}/data tmpfs rw 0 0\n")
    assert (tmp_path / "data").exists()
    cleanup.remove_folders([tmp_path], mounted="")
    assert not tmp_path.exists()


def test_the_machine_is_remembered_once(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(network, "FOREIGN_FOLDERS", (tmp_path / "new", tmp_path))
    network.remember(layout)
    (tmp_path / "new").mkdir()
    network.remember(layout)
    settings, absent = network.recall(layout)
    assert "net.ipv4.ip_forward" in settings
    assert absent == [tmp_path / "new"]


def test_without_a_memory_nothing_is_put_back(layout: Layout) -> None:
    assert network.recall(layout) == ({}, [])


def test_name_servers_of_the_loopback_are_of_no_use_to_pods() -> None:
    text = "# local\nnameserver 127.0.0.53\nsearch example.com\nnameserver 192.0.2.53\nnameserver\n"
    assert network.name_servers(text) == ["192.0.2.53"]


def test_addresses_in_the_output_of_ip() -> None:
    text = '[{"ifname":"finetune0","addr_info":[{"local":"10.188.0.1","prefixlen":16},{"local":"fe80::1"}]}]'
    assert network.addresses_of(text) == {"10.188.0.1", "fe80::1"}
    assert network.addresses_of("") == set()
