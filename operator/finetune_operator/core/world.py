"""The processes of an attempt, from spec and GPU class."""

from finetune_contract.jobspec import World
from finetune_operator.core.objects import GpuClass
from finetune_operator.core.spec import Resources


def plan_world(resources: Resources, gpu_class: GpuClass, allow_cpu_for_gpu: bool = False) -> World:
    """One process per GPU; without GPUs one process per node, unless the spec says otherwise."""
    gpus = gpus_per_node(resources, gpu_class)
    return World(
        nodes=resources.nodes,
        processes_per_node=resources.processes_per_node or gpus or 1,
        gpus_per_node=gpus,
        gpu_class=gpu_class.name,
        allow_cpu_for_gpu=allow_cpu_for_gpu and gpus > 0,
    )


def gpus_per_node(resources: Resources, gpu_class: GpuClass) -> int:
    if resources.gpus_per_node is not None:
        return resources.gpus_per_node
    return 1 if gpu_class.resource_name else 0
