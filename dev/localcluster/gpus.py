"""Fake GPUs: the extended resource and the labels are real, the device is not."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dev.localcluster.kubectl import Kubectl

RESOURCE = "nvidia.com/gpu"
COUNT = 4

# How the different worlds describe a node with four A100s of 80 GB.
SCHEMES: Mapping[str, Mapping[str, str]] = {
    "gfd": {  # NVIDIA's GPU feature discovery
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/gpu.count": str(COUNT),
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
        "nvidia.com/gpu.family": "ampere",
        "nvidia.com/gpu.present": "true",
    },
    "gke": {
        "cloud.google.com/gke-accelerator": "nvidia-a100-80gb",
        "cloud.google.com/gke-accelerator-count": str(COUNT),
    },
    "karpenter": {
        "karpenter.k8s.aws/instance-gpu-name": "a100",
        "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
        "karpenter.k8s.aws/instance-gpu-count": str(COUNT),
        "karpenter.k8s.aws/instance-gpu-memory": "81920",
    },
}


def labels_of(scheme: str) -> dict[str, str | None]:
    """The scheme's labels, and None for those of the others."""
    every: dict[str, str | None] = {name: None for labels in SCHEMES.values() for name in labels}
    return {**every, **SCHEMES[scheme]}


def fake(kubectl: Kubectl, node: str, scheme: str = "gfd") -> None:
    """Give the node its GPUs. The kubelet sets them to 0 when it starts; patched again, it admits pods at once."""
    amount = {RESOURCE: str(COUNT)}
    status = {"status": {"capacity": amount, "allocatable": amount}}
    kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
    label(kubectl, node, labels_of(scheme))


def are_there(kubectl: Kubectl, node: str) -> bool:
    """Whether the node has them."""
    found = kubectl.get("node", node)
    return found["status"]["allocatable"].get(RESOURCE) == str(COUNT) and any(
        name in found["metadata"]["labels"] for labels in SCHEMES.values() for name in labels
    )


def label(kubectl: Kubectl, node: str, labels: Mapping[str, str | None]) -> None:
    """Set labels, remove those that are None."""
    kubectl("patch", "node", node, "--type=merge", f"--patch={json.dumps({'metadata': {'labels': dict(labels)}})}")
