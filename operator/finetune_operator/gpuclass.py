"""Status of the GPUClasses: how many nodes carry them, and how many devices these offer."""

from collections.abc import Sequence

from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.core.placement import members
from finetune_operator.ports import GPUCLASSES, Conflict, Json, KubeApi, NotFound, Observed


def status_of(raw: Json, nodes: Sequence[Node]) -> Json:
    gpu_class = GpuClass.parse(raw)
    matching = members(nodes, gpu_class)
    resource = gpu_class.resource_name
    return {
        "observedGeneration": raw["metadata"].get("generation", 0),
        "nodes": len(matching),
        "devices": sum(node.devices(resource) for node in matching) if resource else 0,
    }


async def write_statuses(api: KubeApi, observed: Observed) -> bool:
    """Bring every GPUClass up to date; False when one has moved meanwhile and needs another look."""
    nodes = [Node.parse(raw) for raw in observed.nodes()]
    is_complete = True
    for raw in observed.gpu_classes():
        status = status_of(raw, nodes)
        if status == raw.get("status"):
            continue
        try:
            observed.note(GPUCLASSES, await api.replace_status(GPUCLASSES, {**raw, "status": status}))
        except Conflict:
            is_complete = False
        except NotFound:
            continue  # deleted meanwhile
    return is_complete
