"""The chart's default GPU classes against label sets as clusters carry them: each node in its class, and in no other.

Label values follow the documentation of GPU Feature Discovery, GKE and Karpenter, and nodes seen in the wild.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.core.placement import is_member
from finetune_operator.core.quantity import parse_quantity

FILE = Path(__file__).parents[2] / "helm" / "finetune-operator" / "gpuclasses.yaml"
SPECS: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())
CLASSES = [GpuClass.parse({"metadata": {"name": name}, "spec": spec}) for name, spec in SPECS.items()]
WITH_DEVICE = {name: spec for name, spec in SPECS.items() if "resourceName" in spec}

Labels = dict[str, str]


def classes_of(labels: Labels) -> list[str]:
    """The classes of a node with these labels, but `cpu`, to which every node belongs."""
    node = Node.parse({"metadata": {"name": "node", "labels": labels}})
    return [one.name for one in CLASSES if one.name != "cpu" and is_member(node, one)]


def gfd(product: str, memory: int, **more: str) -> Labels:
    """GPU Feature Discovery, as the GPU operator's default installation leaves it."""
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": "8",
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
    }
    return labels | {f"nvidia.com/{name.replace('__', '-').replace('_', '.')}": value for name, value in more.items()}


def gke(accelerator: str, **more: str) -> Labels:
    labels = {"cloud.google.com/gke-accelerator": accelerator, "cloud.google.com/gke-accelerator-count": "8"}
    return labels | {f"cloud.google.com/gke-{name.replace('_', '-')}": value for name, value in more.items()}


def karpenter(name: str, memory: int) -> Labels:
    prefix = "karpenter.k8s.aws/instance-gpu"
    return {
        f"{prefix}-name": name,
        f"{prefix}-memory": str(memory),
        f"{prefix}-count": "8",
        f"{prefix}-manufacturer": "nvidia",
    }


# --- whole cards, by every scheme --------------------------------------------------------------------------------
WHOLE: dict[str, dict[str, Labels]] = {
    "t4-16gb": {
        "GFD": gfd("Tesla-T4", 15360),
        "GFD, an older driver": gfd("Tesla-T4", 15109),
        "GKE": gke("nvidia-tesla-t4"),
        "Karpenter": karpenter("t4", 16384),
    },
    "l4-24gb": {
        "GFD": gfd("NVIDIA-L4", 23034),
        "GKE": gke("nvidia-l4"),
        "Karpenter": karpenter("l4", 22888),
    },
    "a10g-24gb": {
        "GFD": gfd("NVIDIA-A10G", 23028),
        "GFD, an older driver": gfd("NVIDIA-A10G", 22731),
        "Karpenter": karpenter("a10g", 24576),
    },
    "l40s-48gb": {"GFD": gfd("NVIDIA-L40S", 46068), "Karpenter": karpenter("l40s", 45776)},
    "a100-40gb": {
        "GFD, SXM": gfd("NVIDIA-A100-SXM4-40GB", 40960),
        "GFD, an older driver": gfd("A100-SXM4-40GB", 40536),
        "GFD, PCIe": gfd("NVIDIA-A100-PCIE-40GB", 40960),
        "GKE": gke("nvidia-tesla-a100"),
        "Karpenter": karpenter("a100", 40960),
    },
    "a100-80gb": {
        "GFD, SXM": gfd("NVIDIA-A100-SXM4-80GB", 81920),
        "GFD, PCIe": gfd("NVIDIA-A100-80GB-PCIe", 81920),
        "GFD, PCIe, an older driver": gfd("NVIDIA-A100-80GB-PCIe", 80994),
        "GKE": gke("nvidia-a100-80gb"),
        "Karpenter": karpenter("a100", 81920),
    },
    "h100-80gb": {
        "GFD, SXM": gfd("NVIDIA-H100-80GB-HBM3", 81559),
        "GFD, PCIe": gfd("NVIDIA-H100-PCIe", 81559),
        "GKE": gke("nvidia-h100-80gb"),
        "GKE, mega": gke("nvidia-h100-mega-80gb"),
        "Karpenter": karpenter("h100", 81920),
    },
    "h200-141gb": {
        "GFD": gfd("NVIDIA-H200", 143771),
        "GKE": gke("nvidia-h200-141gb"),
        "Karpenter": karpenter("h200", 144384),
    },
    "b200-192gb": {
        "GFD": gfd("NVIDIA-B200", 183359),
        "GKE": gke("nvidia-b200"),
        "Karpenter": karpenter("b200", 183296),
    },
}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param(labels, name, id=f"{name} by {scheme}")
        for name, schemes in WHOLE.items()
        for scheme, labels in schemes.items()
    ],
)
def test_a_whole_card_belongs_to_its_class_alone(labels: Labels, expected: str) -> None:
    assert classes_of(labels) == [expected]


@pytest.mark.parametrize("name", ["a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "b200-192gb"])
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param({"mig_strategy": "single"}, id="strategy single, not sliced: the GPU operator's default"),
        pytest.param({"mig_strategy": "mixed", "mig_config": "all-disabled"}, id="strategy mixed, all disabled"),
        pytest.param({"mig_capable": "true"}, id="capable"),
    ],
)
def test_a_card_that_could_be_sliced_and_is_not_counts(name: str, strategy: Labels) -> None:
    [labels, *_] = WHOLE[name].values()
    extra = {f"nvidia.com/{key.replace('_', '.')}": value for key, value in strategy.items()}
    assert classes_of(labels | extra) == [name]


def test_the_label_of_the_device_plugin_may_be_missing() -> None:
    labels = gfd("NVIDIA-H100-80GB-HBM3", 81559)
    del labels["nvidia.com/gpu.sharing-strategy"]
    assert classes_of(labels) == ["h100-80gb"]


def test_where_both_label_a_node_gpu_feature_discovery_decides() -> None:
    """Two schemes that agree, and a node of GKE that the GPU operator has sliced."""
    assert classes_of(gke("nvidia-a100-80gb") | gfd("NVIDIA-A100-SXM4-80GB", 81920)) == ["a100-80gb"]
    assert classes_of(gke("nvidia-a100-80gb") | gfd("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9728)) == []
    assert classes_of(karpenter("a100", 81920) | gfd("NVIDIA-A100-SXM4-80GB-SHARED", 81920)) == []


# --- what must not pass for a card -------------------------------------------------------------------------------
OTHERS: dict[str, Labels] = {
    "no GPU": {"kubernetes.io/os": "linux"},
    "MIG single": gfd("A100-SXM4-40GB-MIG-1g.5gb", 5120, mig_strategy="single"),
    "MIG single, the newer product name": gfd("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 40192, mig_strategy="single"),
    "MIG single, a slice as large as another card": gfd("NVIDIA-H100-80GB-HBM3-MIG-4g.40gb", 40448),
    "MIG mixed": gfd("NVIDIA-A100-SXM4-80GB", 81920, mig_strategy="mixed", mig_config="all-balanced"),
    "MIG mixed, without the MIG manager": gfd("NVIDIA-A100-SXM4-80GB", 81920, mig_strategy="mixed"),
    "MIG on GKE": gke("nvidia-a100-80gb", gpu_partition_size="1g.10gb"),
    "time slicing": gfd("Tesla-T4-SHARED", 15360, gpu_replicas="4"),
    "time slicing without the suffix": gfd("Tesla-T4", 15360, gpu_sharing__strategy="time-slicing"),
    "MPS": gfd("NVIDIA-A100-SXM4-80GB", 81920, gpu_sharing__strategy="mps"),
    "time sharing on GKE": gke("nvidia-tesla-t4", gpu_sharing_strategy="time-sharing"),
    "a virtual GPU": gfd("NVIDIA-A100-SXM4-80GB", 20480),
    "an H100 NVL of 94 GB": gfd("NVIDIA-H100-NVL", 95830),
    "an A10, which is no A10G": gfd("NVIDIA-A10", 23028),
    "a consumer card": gfd("NVIDIA-GeForce-RTX-4090", 24564),
    "a memory that is no number": gfd("NVIDIA-L4", 0) | {"nvidia.com/gpu.memory": "unknown"},
    "no memory": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
    "a product and no more on Karpenter": {"karpenter.k8s.aws/instance-gpu-name": "a100"},
    "another cloud's name": {"gpu.nvidia.com/class": "H100_NVLINK_80GB"},
}


@pytest.mark.parametrize("labels", OTHERS.values(), ids=OTHERS)
def test_anything_else_belongs_to_no_class(labels: Labels) -> None:
    assert classes_of(labels) == []


@pytest.mark.parametrize("labels", [*WHOLE["a100-40gb"].values()], ids=[*WHOLE["a100-40gb"]])
def test_an_a100_of_40_gb_never_passes_for_one_of_80(labels: Labels) -> None:
    assert "a100-80gb" not in classes_of(labels)


def test_every_node_belongs_to_cpu() -> None:
    [cpu] = [one for one in CLASSES if one.name == "cpu"]
    for labels in [{}, gfd("Tesla-T4", 15360), *OTHERS.values()]:
        assert is_member(Node.parse({"metadata": {"name": "node", "labels": labels}}), cpu)


# --- the file itself ---------------------------------------------------------------------------------------------
def test_the_default_classes_are_these() -> None:
    listed = {name: (spec.get("memory"), spec.get("computeCapability")) for name, spec in SPECS.items()}
    assert listed == {
        "cpu": (None, None),
        "t4-16gb": ("14Gi", "7.5"),
        "l4-24gb": ("22Gi", "8.9"),
        "a10g-24gb": ("22Gi", "8.6"),
        "l40s-48gb": ("44Gi", "8.9"),
        "a100-40gb": ("39Gi", "8.0"),
        "a100-80gb": ("79Gi", "8.0"),
        "h100-80gb": ("79Gi", "9.0"),
        "h200-141gb": ("139Gi", "9.0"),
        "b200-192gb": ("178Gi", "10.0"),
    }


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_a_node_of_a_class_has_at_least_the_memory_that_the_class_states(name: str) -> None:
    mebibytes = int(parse_quantity(WITH_DEVICE[name]["memory"])) // 2**20
    bounds = {
        int(expression["values"][0])
        for term in WITH_DEVICE[name]["nodeSelectorTerms"]
        for expression in term["matchExpressions"]
        if expression["operator"] == "Gt"
    }
    assert bounds == {mebibytes - 1}


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_every_term_states_the_card_and_keeps_slices_and_shared_cards_out(name: str) -> None:
    for term in WITH_DEVICE[name]["nodeSelectorTerms"]:
        stated = {(expression["key"], expression["operator"]) for expression in term["matchExpressions"]}
        by_gfd = {
            ("nvidia.com/gpu.product", "In"),
            ("nvidia.com/gpu.memory", "Gt"),
            ("nvidia.com/gpu.memory", "Lt"),
            ("nvidia.com/gpu.sharing-strategy", "NotIn"),
        }
        by_gke = {
            ("nvidia.com/gpu.product", "DoesNotExist"),
            ("cloud.google.com/gke-accelerator", "In"),
            ("cloud.google.com/gke-gpu-partition-size", "DoesNotExist"),
            ("cloud.google.com/gke-gpu-sharing-strategy", "DoesNotExist"),
        }
        by_karpenter = {
            ("nvidia.com/gpu.product", "DoesNotExist"),
            ("karpenter.k8s.aws/instance-gpu-name", "In"),
            ("karpenter.k8s.aws/instance-gpu-memory", "Gt"),
            ("karpenter.k8s.aws/instance-gpu-memory", "Lt"),
        }
        assert any(scheme <= stated for scheme in (by_gfd, by_gke, by_karpenter))


@pytest.mark.parametrize("name", WITH_DEVICE)
def test_pods_of_a_class_tolerate_the_taint_of_gpu_nodes(name: str) -> None:
    assert WITH_DEVICE[name]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
