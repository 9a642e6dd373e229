"""One operator process for most tests of the API; a test that kills it starts its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dev.kit.apiserver import ApiServer, Missing
from dev.localcluster.cluster import Cluster
from finetune_operator.ports import GPUCLASSES, NODES, Resource
from tests.api.fakekubelet import FakeKubelet
from tests.api.operatorprocess import OperatorProcess, trouble
from tests.conftest import fresh_namespace, write_kubeconfig

_INSTALLED = ("deployments", "--all-namespaces", "-l", "app.kubernetes.io/name=finetune-operator")


@pytest.fixture(scope="session")
def kubeconfig(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kubeconfig(control_plane, tmp_path_factory.mktemp("kube") / "config")


@pytest.fixture(scope="session")
def api(control_plane: Cluster, kubeconfig: Path) -> Iterator[ApiServer]:
    with installed_operator_paused(control_plane):
        api = ApiServer(kubeconfig)
        yield api
        api.close()


@contextmanager
def installed_operator_paused(control_plane: Cluster) -> Iterator[None]:
    """An operator that end-to-end tests left installed would work on the same jobs."""
    kubectl = control_plane.kubectl
    found = {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["spec"]["replicas"]
        for item in kubectl.get(*_INSTALLED)["items"]
    }
    for namespace, name in found:
        kubectl("-n", namespace, "scale", "deployment", name, "--replicas=0")
        kubectl("-n", namespace, "wait", "pods", "-l", _INSTALLED[-1], "--for=delete", "--timeout=60s", timeout=70)
    yield
    for (namespace, name), replicas in found.items():
        kubectl("-n", namespace, "scale", "deployment", name, f"--replicas={replicas}")


@contextmanager
def scene(control_plane: Cluster, api: ApiServer, prefix: str) -> Iterator[FakeKubelet]:
    """A namespace, a class of its name, and two nodes that carry it."""
    with fresh_namespace(control_plane, prefix) as name:
        kubelet = FakeKubelet(api, name)
        try:
            kubelet.add_class()
            kubelet.add_node("a")
            kubelet.add_node("b")
            yield kubelet
        finally:
            for resource in (NODES, GPUCLASSES):
                for obj in api.list(resource):
                    if obj["metadata"]["name"].startswith(name):
                        _delete(api, resource, obj["metadata"]["name"])


def _delete(api: ApiServer, resource: Resource, name: str) -> None:
    with suppress(Missing):
        api.delete(resource, None, name)


@pytest.fixture(scope="session")
def _shared(
    control_plane: Cluster, api: ApiServer, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakeKubelet, OperatorProcess]]:
    log = tmp_path_factory.mktemp("operator") / "shared.log"
    with scene(control_plane, api, "api") as kubelet:
        operator = OperatorProcess(kubeconfig, log, kubelet.namespace)
        kubelet.log = operator.log
        operator.start()
        yield kubelet, operator
        assert operator.stop() == 0, operator.log()
        assert not trouble(operator.log(), api_server_was_away=True)  # another test may have restarted it


@pytest.fixture
def operator(_shared: tuple[FakeKubelet, OperatorProcess]) -> Iterator[OperatorProcess]:
    """The operator that most tests share. Its log is read after each of them."""
    operator = _shared[1]
    before = len(operator.log())
    yield operator
    assert operator.is_running(), operator.log()
    found = trouble(operator.log()[before:])
    assert not found, found


@pytest.fixture
def kubelet(_shared: tuple[FakeKubelet, OperatorProcess], operator: OperatorProcess) -> FakeKubelet:
    """Jobs that the shared operator works on."""
    return _shared[0]


@pytest.fixture
def own(
    control_plane: Cluster, api: ApiServer, kubeconfig: Path, tmp_path: Path
) -> Iterator[tuple[FakeKubelet, OperatorProcess]]:
    """A scene and an operator of the test's own, that it may kill."""
    with scene(control_plane, api, "own") as kubelet:
        operator = OperatorProcess(kubeconfig, tmp_path / "operator.log", kubelet.namespace)
        kubelet.log = operator.log
        operator.start()
        yield kubelet, operator
        operator.stop()
        found = trouble(operator.log(), api_server_was_away=True)
        assert not found, found


@pytest.fixture
def figure(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print a measured figure, and keep it in the report."""

    def note(name: str, value: object) -> None:
        record_property(name, value)
        with capsys.disabled():
            print(f"\n  figure: {name} = {value}")

    return note
