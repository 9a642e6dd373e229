"""The cluster as its users meet it: pods, names, storage, faults."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dev.localcluster import LocalCluster
from dev.localcluster.kubectl import Manifest
from dev.localcluster.s3 import S3
from dev.localcluster.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.races]

LOOK_UP = """
import socket, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://s3.storage.svc:8333/", timeout=10)
except urllib.error.HTTPError as error:
    print("s3 answers", error.code)
print("api", socket.gethostbyname("kubernetes.default.svc.cluster.local"))
open("/tmp/scratch", "w").close()
try:
    open("/etc/hostname2", "w")
except OSError as error:
    print("root", error.strerror)
"""
SERVE = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8080)"


def restricted_pod(image: str, name: str, node: str, code: str, **spec: Any) -> Manifest:
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", code],
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            **spec,
        },
    }


def run(cluster: LocalCluster, namespace: str, pod: Manifest) -> str:
    """Its log, once it has succeeded."""
    pod["metadata"]["namespace"] = namespace
    name = pod["metadata"]["name"]
    cluster.kubectl.apply(pod)

    def ended() -> bool:
        phase = cluster.kubectl.get(f"--namespace={namespace}", "pod", name)["status"]["phase"]
        assert phase != "Failed", cluster.kubectl(f"--namespace={namespace}", "logs", name)
        return bool(phase == "Succeeded")

    until(f"{name} does not end", ended, seconds=300, pause=0.2)
    return cluster.kubectl(f"--namespace={namespace}", "logs", name)


def test_up_again_starts_nothing_anew(cluster: LocalCluster) -> None:
    before = {name: cluster.daemon_pid(name) for name in cluster.daemons.names()}
    cluster.ensure_nodes()
    assert {name: cluster.daemon_pid(name) for name in cluster.daemons.names()} == before
    assert None not in before.values()


def test_a_restricted_pod_runs_on_both_nodes_and_finds_storage_and_api(cluster: LocalCluster, namespace: str) -> None:
    image = cluster.image("base")
    with ThreadPoolExecutor() as pool:
        logs = pool.map(
            lambda node: run(cluster, namespace, restricted_pod(image, f"probe-{node}", node, LOOK_UP)), cluster.nodes
        )
    for log in logs:
        assert log.splitlines() == ["s3 answers 403", "api 10.96.0.1", "root Read-only file system"]


def test_pods_on_both_nodes_meet_by_name_before_they_are_ready(cluster: LocalCluster, namespace: str) -> None:
    image = cluster.image("base")
    cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": "ranks"},
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": "rank-0"}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": "web"},
            "spec": {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": "rank-0"}},
        },
    )
    server = restricted_pod(image, "rank-0", cluster.nodes[0], SERVE, hostname="rank-0", subdomain="ranks")
    server["metadata"]["namespace"] = namespace
    server["spec"]["containers"][0]["workingDir"] = "/tmp"
    cluster.kubectl.apply(server)
    ask = """
import time, urllib.request
for url in ("http://rank-0.ranks:8080/", "http://web/"):
    while True:
        try:
            print(urllib.request.urlopen(url, timeout=5).status)
            break
        except OSError:
            time.sleep(0.2)
"""
    assert run(cluster, namespace, restricted_pod(image, "rank-1", cluster.nodes[1], ask)).split() == ["200", "200"]


def test_a_pod_that_breaks_the_rules_of_its_namespace_is_refused(cluster: LocalCluster, namespace: str) -> None:
    pod = restricted_pod("x", "root", cluster.nodes[0], "", securityContext={})
    pod["metadata"]["namespace"] = namespace
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        cluster.kubectl.apply(pod)


@pytest.fixture(scope="module")
def storage(cluster: LocalCluster) -> S3:
    return cluster.s3


def refused(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_of_many_conditional_writes_one_wins(storage: S3) -> None:
    key = f"localcluster-test/{time.time_ns()}"

    def put(body: bytes) -> bool:
        client = storage.client()
        try:
            client.put_object(Bucket=storage.bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            return False
        finally:
            client.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        bodies = [str(index).encode() for index in range(8)]
        won = dict(zip(bodies, pool.map(put, bodies), strict=True))
    client = storage.client()
    assert sum(won.values()) == 1
    assert won[client.get_object(Bucket=storage.bucket, Key=key)["Body"].read()]
    client.delete_object(Bucket=storage.bucket, Key=key)
    client.close()


def test_a_missing_bucket_is_refused_not_created(storage: S3) -> None:
    user, admin = storage.client(), storage.client(storage.admin)
    assert refused(user.put_object, Bucket="missing", Key="k", Body=b"") == ("AccessDenied", 403)
    assert refused(user.create_bucket, Bucket="missing") == ("AccessDenied", 403)
    assert refused(admin.put_object, Bucket="missing", Key="k", Body=b"") == ("NoSuchBucket", 404)
    assert "missing" not in {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]}
    user.close()
    admin.close()


@pytest.mark.serial
def test_the_second_node_pretends_to_have_gpus_through_a_kubelet_restart(cluster: LocalCluster, namespace: str) -> None:
    node = cluster.nodes[1]
    cluster.stop_kubelet(node)
    assert cluster.daemon_pid(f"kubelet-{node}") is None
    cluster.start_kubelet(node)
    found = cluster.kubectl.get("node", node)
    assert found["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert found["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert found["metadata"]["labels"]["finetune.dev/localcluster"] == "true"
    pod = restricted_pod(cluster.image("base"), "gpu", node, "print('admitted')")
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "4"}}
    assert run(cluster, namespace, pod) == "admitted\n"


def test_writes_are_audited_with_user_and_agent(cluster: LocalCluster, namespace: str) -> None:
    name = f"audited-{time.time_ns()}"
    cluster.kubectl("create", "configmap", name, f"--namespace={namespace}")
    cluster.kubectl("get", "configmap", name, f"--namespace={namespace}")

    def written() -> list[tuple[str, str]]:
        events = (json.loads(line) for line in cluster.audit_log.read_text().splitlines() if name in line)
        return [
            (event["verb"], event["user"]["username"]) for event in events if event["userAgent"].startswith("kubectl/")
        ]

    until("the audit log does not tell", lambda: written() == [("create", "admin"), ("get", "admin")], seconds=120)


@pytest.mark.serial
def test_the_api_server_comes_back(cluster: LocalCluster) -> None:
    before = cluster.daemon_pid("kube-apiserver")
    cluster.restart_api_server()
    assert cluster.daemon_pid("kube-apiserver") not in (None, before)
    assert len(cluster.kubectl.get("nodes")["items"]) == 2
