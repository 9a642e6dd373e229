"""The configuration files, as their readers will see them."""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path

import pytest
import yaml

from dev.localcluster import controlplane, coredns, gpus, node, s3
from dev.localcluster.layout import Addresses, Layout
from dev.localcluster.node import Node
from dev.localcluster.pki import Authority, render_kubeconfig
from dev.localcluster.s3 import S3, Keys
from dev.localcluster.services import service_to


@pytest.fixture
def nodes(layout: Layout) -> tuple[Node, Node]:
    return Node(1, layout), Node(2, layout)


def test_two_nodes_share_no_port_folder_address_or_cgroup(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    for name in ("name", "address", "folder", "run", "socket", "images", "cgroup", "kubelet_port", "health_port"):
        assert getattr(one, name) != getattr(two, name), name


def test_two_nodes_share_the_ledger_of_pod_addresses(nodes: tuple[Node, Node]) -> None:
    one, two = (node.render_network(each.layout)["plugins"][0] for each in nodes)
    assert one == two  # one bridge: the same address twice would go unnoticed
    assert one["ipam"]["dataDir"]


def test_pod_addresses_begin_after_those_of_the_nodes() -> None:
    addresses = Addresses()
    assert addresses.gateway < addresses.node(1) < addresses.node(2) < addresses.first_pod


def test_containerd_reads_its_configuration(nodes: tuple[Node, Node]) -> None:
    config = tomllib.loads(node.render_containerd(nodes[0]))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["netns_mounts_under_state_dir"] is True
    assert cri["sandbox_image"] == node.PAUSE_IMAGE
    assert config["state"].startswith(str(nodes[0].layout.run))


def test_the_kubelet_keeps_its_pods_in_its_own_places(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    config = node.render_kubelet(nodes[1], Authority(tmp_path), tmp_path)
    assert config["cgroupRoot"] == "/finetune-localcluster/node2"
    assert config["podLogsDir"].endswith("node2/logs")
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["imageGCHighThresholdPercent"] == 100


@pytest.mark.parametrize(
    ("name_servers", "want"),
    [
        pytest.param([], [], id="without name servers nothing is forwarded"),
        pytest.param(["192.0.2.53", "192.0.2.54"], ["    forward . 192.0.2.53 192.0.2.54"], id="all are asked"),
    ],
)
def test_corefile(name_servers: list[str], want: list[str]) -> None:
    text = coredns.render("10.188.0.1", Path("/x/kubeconfig"), name_servers)
    assert [line for line in text.splitlines() if "forward ." in line] == want
    assert text.count("{") == text.count("}")
    assert "cache" not in text


def test_a_service_without_selector_leads_to_the_address() -> None:
    service, slice_ = service_to("storage", "s3", "10.188.0.1", [("s3", 80, 8333, "TCP")])
    assert "selector" not in service["spec"]
    assert service["spec"]["ports"][0]["port"] == 80
    assert slice_["ports"] == [{"name": "s3", "port": 8333, "protocol": "TCP"}]
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "s3"


def test_the_s3_user_may_use_its_bucket_only() -> None:
    storage = S3("http://h", "http://c", "finetune", user=Keys("u", "us"), admin=Keys("a", "as"))
    admin, user = s3.render_identities(storage)["identities"]
    assert "Admin" in admin["actions"]
    assert all(action.endswith(":finetune") for action in user["actions"])
    assert not any(action.startswith("Admin") for action in user["actions"])


def test_keys_are_random_kept_and_private(tmp_path: Path) -> None:
    first, again = s3.local(tmp_path / "a", "h"), s3.local(tmp_path / "a", "h")
    assert first == again
    assert first.user != s3.local(tmp_path / "b", "h").user
    assert (tmp_path / "a/s3-keys.json").stat().st_mode & 0o777 == 0o600


def test_the_kubeconfig_needs_no_other_file() -> None:
    text = render_kubeconfig(server="https://s", context="c", authority=b"A", certificate=b"B", key=b"K")
    config = yaml.safe_load(text)
    assert config["current-context"] == "c"
    assert base64.b64decode(config["users"][0]["user"]["client-key-data"]) == b"K"


def test_a_certificate_is_issued_once_and_its_key_is_private(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.ensure()
    identity = authority.issue("admin", "admin", group="system:masters")
    before = identity.certificate.read_bytes()
    authority.ensure()
    assert authority.issue("admin", "admin", group="system:masters").certificate.read_bytes() == before
    assert identity.key.stat().st_mode & 0o777 == 0o600


def test_every_write_of_a_user_is_audited() -> None:
    *quiet, last = controlplane.AUDIT_POLICY["rules"]
    assert last == {"level": "Metadata"}
    for rule in quiet:
        assert isinstance(rule, dict)
        assert rule.get("verbs") == ["get", "list", "watch"] or "nonResourceURLs" in rule or rule["resources"]


def test_the_api_server_is_not_open_to_other_networks(layout: Layout, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.ensure()
    argv = controlplane.api_server(tmp_path, layout, authority).argv
    assert f"--bind-address={layout.addresses.gateway}" in argv
    assert "--kubelet-preferred-address-types=InternalIP" in argv


def test_a_scheme_takes_the_labels_of_the_others_away() -> None:
    labels = gpus.labels_of("gke")
    assert labels["cloud.google.com/gke-accelerator"] == "nvidia-a100-80gb"
    assert labels["nvidia.com/gpu.product"] is None
    assert set(labels) == {name for scheme in gpus.SCHEMES.values() for name in scheme}
