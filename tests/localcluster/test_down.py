"""Down leaves nothing behind. Ends the cluster, so it runs last and only when asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.localcluster import LocalCluster
from dev.localcluster.commands import output_of

pytestmark = [pytest.mark.cluster, pytest.mark.races]


def machine() -> dict[str, set[str]]:
    """The machine as others see it, without any help from the code under test."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    chains = output_of("iptables-save") + output_of("ip6tables-save")
    groups = (str(path) for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir())
    commands = (command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    return {
        "mounts": {line.split()[1] for line in mounts if any(word in line for word in ("finetune-", "kubelet", "cni"))},
        "links": {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(("veth", "finetune"))},
        "chains": {line for line in chains.splitlines() if "KUBE-" in line or "CNI-" in line},
        "cgroups": {path for path in groups if "kubepods" in path or "finetune" in path},
        "folders": {
            path for path in ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers") if Path(path).exists()
        },
        "programs": {
            words for words in commands if "operator/localcluster/" in words or "finetune-localcluster/" in words
        },
    }


def command_line(path: Path) -> str:
    """Empty for a zombie, and for a process that ended meanwhile."""
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def deaf_pod(cluster: LocalCluster, node: str) -> None:
    """A pod that does not end by itself, nor for SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(999)"
    overrides = f'{{"spec": {{"nodeName": "{node}"}}}}'
    image = f"--image={cluster.image('base')}"
    name = f"deaf-{node}"
    cluster.kubectl("run", name, image, f"--overrides={overrides}", "--command", "--", "python3", "-c", code)
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s", timeout=190)


def test_down_leaves_nothing_behind(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        deaf_pod(cluster, node)
    up = machine()
    assert all(up.values()), "the test looks in the wrong places"
    assert cluster.leftovers()

    cluster.down()
    assert cluster.leftovers() == []
    assert machine() == {kind: set() for kind in up}


def test_down_without_a_cluster_is_quiet() -> None:
    LocalCluster().down()
    assert LocalCluster().leftovers() == []
