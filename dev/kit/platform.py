"""The operator installed by its chart on a cluster, with assets in S3: what end-to-end tests start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dev.kit import assets
from dev.kit.chart import DEPLOYMENT, Chart, image_values, prepare_cluster
from dev.kit.chart import NAMESPACE as SYSTEM
from dev.kit.specs import TINY_MODEL, TINY_ROWS, Object, tiny_job
from dev.localcluster import gpus
from dev.localcluster.commands import CommandError, output_of
from dev.localcluster.local import LocalCluster
from dev.localcluster.waiting import until

PROGRESS_INTERVAL_SECONDS = 1
BROKEN_ROWS = "datasets/broken/line-3.jsonl"


class Platform:
    """Installed once for all end-to-end tests.

    Attributes:
        cluster: two nodes, the second one with four fake A100s.
        trainer_image, operator_image: references that pods find.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self.operator_image = cluster.image("operator")
        self.trainer_image = cluster.image("trainer")
        self.chart = Chart(cluster.helm, cluster.kubeconfig, cluster.context)

    @property
    def values(self) -> dict[str, Any]:
        return {
            **image_values(self.operator_image, self.trainer_image),
            "progressIntervalSeconds": PROGRESS_INTERVAL_SECONDS,
            "testing": {"allowCpuForGpu": True},
        }

    @property
    def gpu_node_name(self) -> str:
        return self.cluster.nodes[1]

    def install(self) -> None:
        prepare_cluster(self.kubectl)
        self.chart.install(self.values)

    def upload_tiny(self, model: Any) -> None:
        """The tiny Qwen2-shaped model (a folder), rows it can learn, and a file with a broken third line."""
        s3 = self.cluster.s3
        assets.upload_folder(s3, model, TINY_MODEL)
        rows = assets.tiny_rows()
        assets.put_text(s3, TINY_ROWS, rows)
        first, second, _ = rows.split("\n", 2)
        assets.put_text(s3, BROKEN_ROWS, f"{first}\n{second}\n{{not json\n")

    def tiny_job(self, name: str, **changes: Any) -> Object:
        s3 = self.cluster.s3
        return tiny_job(name, bucket=s3.bucket, endpoint=s3.endpoint_in_cluster, **changes)

    def published(self, job: Object) -> list[str]:
        """Keys below the job's output, but for the hidden folder of its runs."""
        prefix = job["spec"]["output"]["uri"].split("/", 3)[3]
        listed = self.cluster.s3.client().list_objects_v2(Bucket=self.cluster.s3.bucket, Prefix=f"{prefix}/")
        keys = [item["Key"] for item in listed.get("Contents", [])]
        return [key for key in keys if "/.finetune/" not in key]

    @contextmanager
    def gpu_node(self, scheme: str) -> Iterator[str]:
        """The second node, labelled by one scheme only; by GFD again afterwards."""
        gpus.fake(self.kubectl, self.gpu_node_name, scheme)
        try:
            yield self.gpu_node_name
        finally:
            gpus.fake(self.kubectl, self.gpu_node_name)

    # ---- faults

    def kill_container(self, pod: Object) -> None:
        """SIGKILL to PID 1 of the pod's first container: no grace, no record."""
        [status] = pod["status"]["containerStatuses"]
        container = status["containerID"].removeprefix("containerd://")
        output_of(*self.cluster.ctr(pod["spec"]["nodeName"], "tasks", "kill", "--signal", "SIGKILL", container))

    def operator_pod(self) -> Object:
        found: Mapping[str, Any] = self.kubectl.get(
            "-n", SYSTEM, "pods", "-l", "app.kubernetes.io/name=finetune-operator"
        )
        [pod] = [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]
        return dict(pod)

    def kill_operator(self) -> None:
        self.kill_container(self.operator_pod())

    def scale_operator(self, replicas: int) -> None:
        self.kubectl("-n", SYSTEM, "scale", "deployment", DEPLOYMENT, f"--replicas={replicas}")
        wanted = (lambda: self.operator_is_ready()) if replicas else (lambda: not self._operator_pods())
        until(f"the operator has {replicas} replicas", wanted, seconds=90, pause=0.5)

    def operator_is_ready(self) -> bool:
        try:
            deployment = self.kubectl.get("-n", SYSTEM, "deployment", DEPLOYMENT)
        except CommandError:
            return False
        return deployment["status"].get("readyReplicas", 0) >= 1 and not deployment["status"].get("unavailableReplicas")

    def _operator_pods(self) -> list[Object]:
        return list(self.kubectl.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/name=finetune-operator")["items"])

    def restart_api_server(self) -> None:
        self.cluster.restart_api_server()
