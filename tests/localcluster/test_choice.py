"""Which cluster is used, and on what conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.localcluster import cluster, local, s3
from dev.localcluster.cluster import Cluster, choose, connect
from dev.localcluster.context import ContextCluster
from dev.localcluster.errors import UnsupportedError
from dev.localcluster.kind import KindCluster
from dev.localcluster.kubectl import is_near
from dev.localcluster.layout import Layout
from dev.localcluster.local import LocalCluster
from dev.localcluster.pull import PullError, has_image, pull_pod

STORAGE = {"S3_ENDPOINT": "http://s3", "S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.mark.parametrize(
    ("environ", "on_path", "docker_runs", "want"),
    [
        pytest.param({"KUBE_CONTEXT": "team"}, {"kind", "docker"}, True, "context", id="a named context comes first"),
        pytest.param({}, {"kind", "docker"}, True, "kind", id="kind where Docker runs"),
        pytest.param({}, {"kind", "docker"}, False, "local", id="a Docker client alone is not enough"),
        pytest.param({}, {"docker"}, True, "local", id="no kind"),
        pytest.param({"KUBE_CONTEXT": ""}, set(), False, "local", id="an empty name names nothing"),
        pytest.param({"KUBECONFIG": "/x"}, set(), False, "local", id="a current context is not a named one"),
    ],
)
def test_choice(
    environ: dict[str, str], on_path: set[str], docker_runs: bool, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.shutil, "which", lambda name: name if name in on_path else None)  # type: ignore[attr-defined]
    monkeypatch.setattr(cluster, "succeeds", lambda *_, **__: docker_runs)
    assert choose(environ) == want


def test_all_three_offer_the_same() -> None:
    # isinstance would start the storage: the protocol's members are looked up on the classes
    members = {name for name in vars(Cluster) if not name.startswith("_")}
    for each in (ContextCluster, KindCluster, LocalCluster):
        fields = {"context"} if each is ContextCluster else set()
        assert members <= {*dir(each), *fields}, each


def test_a_named_context_is_never_patched_stopped_or_deleted() -> None:
    named = connect({"KUBE_CONTEXT": "team", **STORAGE})
    assert named.context == "team"
    assert named.s3.endpoint_in_cluster == "http://s3"
    for act in (
        named.fake_gpus,
        named.restart_api_server,
        lambda: named.stop_kubelet("n"),
        lambda: named.image("trainer"),
    ):
        with pytest.raises(UnsupportedError):
            act()
    named.down()


def test_a_named_context_needs_a_named_storage() -> None:
    with pytest.raises(KeyError, match="S3_BUCKET"):
        s3.from_environment({"S3_ENDPOINT": "http://s3"})


@pytest.mark.parametrize(
    ("minor", "want"),
    [("34", True), ("33", True), ("35+", True), ("32", False), ("", False)],
)
def test_kubectl_may_be_one_minor_version_off(minor: str, want: bool) -> None:
    assert is_near(minor) is want


def test_folders_follow_xdg() -> None:
    layout = Layout.default({"HOME": "/h", "XDG_CACHE_HOME": "/big"})
    assert layout.cache == Path("/big/finetune-operator")
    assert layout.state == Path("/h/.local/state/finetune-operator/localcluster")


@pytest.mark.parametrize(
    ("conditions", "taints", "want"),
    [
        pytest.param([{"type": "Ready", "status": "True"}], [], True, id="ready"),
        pytest.param([{"type": "Ready", "status": "Unknown"}], [], False, id="lost"),
        pytest.param([], [], False, id="not reported yet"),
        pytest.param(
            [{"type": "Ready", "status": "True"}],
            [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}],
            False,
            id="ready, still tainted",
        ),
        pytest.param([{"type": "Ready", "status": "True"}], [{"key": "team/ml"}], True, id="tainted by a person"),
    ],
)
def test_readiness_of_a_node(conditions: list[object], taints: list[object], want: bool) -> None:
    assert local.is_ready({"status": {"conditions": conditions}, "spec": {"taints": taints}}) is want


def test_a_pull_ends_with_the_container_or_with_the_reason() -> None:
    def pod(state: dict[str, object]) -> dict[str, object]:
        return {"status": {"containerStatuses": [{"state": state}]}}

    assert not has_image({"status": {}})
    assert not has_image(pod({"waiting": {"reason": "ContainerCreating"}}))
    assert has_image(pod({"terminated": {"exitCode": 0}}))
    with pytest.raises(PullError, match="not found"):
        has_image(pod({"waiting": {"reason": "ErrImagePull", "message": "manifest not found"}}))


def test_a_pull_goes_past_the_scheduler_to_its_node() -> None:
    pod = pull_pod("localhost:5000/x:1", "node2")
    assert pod["spec"]["nodeName"] == "node2"
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]
