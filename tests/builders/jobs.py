"""FineTuneJobs, GPU classes and nodes as the API server stores them."""

from copy import deepcopy
from typing import Any

from dev.kit.specs import apply_changes, minimal_job
from finetune_contract import names
from tests.fakes.schema import schema_of, with_defaults

Json = dict[str, Any]
NAMESPACE = "team-a"
GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"


class JobBuilder:
    def __init__(self, name: str) -> None:
        self._job: Json = minimal_job(name, {"method.lora.rank": 8})
        self._job["metadata"] |= {"namespace": NAMESPACE, "uid": "uid-of-job", "generation": 1, "resourceVersion": "1"}

    def build(self) -> Json:
        return deepcopy(dict(with_defaults(schema_of("finetunejobs"), self._job)))

    def bare(self) -> Json:
        """As a person applies it: without defaults, uid, generation."""
        bare = deepcopy(self._job)
        for name in ("uid", "generation", "resourceVersion"):
            del bare["metadata"][name]
        return bare

    # --- spec ------------------------------------------------------------------------------------------------
    def having(self, path: str, value: Any) -> "JobBuilder":
        """`having("training.epochs", 2)`; None removes the field."""
        apply_changes(self._job["spec"], {path: value})
        return self

    def suspended(self) -> "JobBuilder":
        return self.having("suspend", True)

    def with_retries(self, retries: int) -> "JobBuilder":
        return self.having("retries", retries)

    def on_nodes(self, nodes: int) -> "JobBuilder":
        return self.having("resources.nodes", nodes)

    def on_gpus(self, gpu_class: str = "t4-16gb", gpus: int = 1) -> "JobBuilder":
        return self.having("resources.gpuClass", gpu_class).having("resources.gpusPerNode", gpus)

    # --- metadata and status ---------------------------------------------------------------------------------
    def at_generation(self, generation: int) -> "JobBuilder":
        self._job["metadata"]["generation"] = generation
        return self

    def restarted_at(self, value: str) -> "JobBuilder":
        self._job["metadata"]["annotations"] = {names.ANNOTATION_RESTARTED_AT: value}
        return self

    def being_deleted(self) -> "JobBuilder":
        self._job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return self

    def with_status(self, **status: Any) -> "JobBuilder":
        self._job["status"] = {**self._job.get("status", {}), **status}
        return self


def make_job(name: str = "faq") -> JobBuilder:
    return JobBuilder(name)


def make_class(name: str = "cpu", **spec: Any) -> Json:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "GPUClass",
        "metadata": {"name": name},
        "spec": spec,
    }


def make_t4(**changes: Any) -> Json:
    spec: Json = {
        "resourceName": GPU,
        "memory": "15Gi",
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": ["Tesla-T4"]}]},
            {"matchExpressions": [{"key": "cloud.google.com/gke-accelerator", "operator": "In"}]},
        ],
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    spec["nodeSelectorTerms"][1]["matchExpressions"][0]["values"] = ["nvidia-tesla-t4"]
    return make_class("t4-16gb", **{**spec, **changes})


def make_node(name: str, *, ready: bool = True, gpus: int = 0, labels: dict[str, str] | None = None) -> Json:
    allocatable = {"cpu": "4", "memory": "16Gi"} | ({GPU: str(gpus)} if gpus else {})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }
