"""The cluster that tests share: a control plane for tests of the API, two nodes for end-to-end tests.

Nothing is started before a test asks for it. A context that the project did not create is used only when KUBE_CONTEXT
names it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dev.localcluster.cluster import Cluster
    from finetune_operator.kube import KubeClient

_OWN_CONTEXTS = {"finetune-localcluster", "kind-finetune"}
_NEED_CLUSTER = {"control_plane", "cluster", "real_kube_api"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs an API server; starts the local cluster where none is named")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for a cluster."""
    for item in items:
        if _NEED_CLUSTER & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def control_plane() -> Cluster:
    """An API server with its controllers, and the CRDs of this checkout."""
    from dev.localcluster import connect
    from tests.api import crds

    found = connect()
    refuse_foreign(found.context)
    found.ensure_control_plane()
    crds.install(found.kubectl)
    return found


@pytest.fixture(scope="session")
def cluster(control_plane: Cluster) -> Cluster:
    """Two Ready nodes, DNS, storage, and images on demand."""
    control_plane.ensure_nodes()
    return control_plane


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A namespace of the test's own that enforces the `restricted` level; gone afterwards."""
    with fresh_namespace(control_plane) as name:
        yield name


@pytest.fixture
async def real_kube_api(control_plane: Cluster, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """The operator's own client, on the real API server."""
    from finetune_operator import kube

    kubeconfig = write_kubeconfig(control_plane, tmp_path / "kubeconfig")
    async with kube.connect(await kube.load_configuration(kubeconfig)) as api:
        yield api


class fresh_namespace:  # noqa: N801 - a context manager, for fixtures of any scope
    """`with fresh_namespace(cluster) as name`"""

    def __init__(self, cluster: Cluster, prefix: str = "test") -> None:
        self._kubectl = cluster.kubectl
        self._name = f"{prefix}-{secrets.token_hex(4)}"

    def __enter__(self) -> str:
        from dev.kit import namespaces

        self._kubectl.apply(namespaces.restricted(self._name))
        return self._name

    def __exit__(self, *_: object) -> None:
        self._kubectl("delete", "namespace", self._name, "--wait=false")


def refuse_foreign(context: str) -> None:
    if context not in _OWN_CONTEXTS and context != os.environ.get("KUBE_CONTEXT"):
        pytest.exit(f"{context} is not a cluster of this project's tests: name it in KUBE_CONTEXT to use it", 2)


def write_kubeconfig(cluster: Cluster, path: Path) -> Path:
    """A kubeconfig of this one context, for a program that knows no contexts."""
    path.touch(mode=0o600)
    path.write_text(cluster.kubectl("config", "view", "--minify", "--flatten", "--raw"))
    return path
