"""The cluster that this package's own tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.localcluster import LocalCluster
from dev.localcluster.cluster import choose
from dev.localcluster.kubectl import Kubectl
from dev.localcluster.layout import Layout

_LAST = Path(__file__).with_name("test_down.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The test that ends the cluster runs only when it is asked for by name: other tests still need the cluster."""
    if any(_LAST.name in argument for argument in config.args):
        return
    for item in items:
        if item.path == _LAST:
            item.add_marker(
                pytest.mark.skip(reason=f"ends the cluster; runs as `pytest {_LAST.parent.name}/{_LAST.name}`")
            )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Folders that are nobody's."""
    return Layout(state=tmp_path / "state", cache=tmp_path / "cache", run=tmp_path / "run")


@pytest.fixture(scope="session")
def cluster() -> LocalCluster:
    """Our own cluster, both nodes up."""
    if choose() != "local":
        pytest.skip(f"tests of our own cluster, and the one in use is {choose()}")
    cluster = LocalCluster()
    cluster.ensure_nodes()
    return cluster


@pytest.fixture
def namespace(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that admits restricted pods only."""
    name = request.node.originalname.replace("_", "-")[:50].strip("-")
    kubectl: Kubectl = cluster.kubectl
    kubectl("delete", "namespace", name, "--ignore-not-found", timeout=90)
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=180s", timeout=190)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
