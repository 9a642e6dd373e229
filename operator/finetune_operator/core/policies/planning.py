"""Planned: where would it run? The class, its devices and the processes; whether any node fits.

Not looked at again while all pods of an attempt on these nodes have theirs: a class that is edited or a node that goes
must not shake a job that runs.
"""

from finetune_contract.jobspec import World
from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason, compose
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import GpuClass
from finetune_operator.core.outcomes import fail_run
from finetune_operator.core.snapshot import Snapshot
from finetune_operator.core.spec import Resources
from finetune_operator.core.world import gpus_per_node, plan_world


def plan_placement(draft: Draft) -> Draft:
    if _is_placed(draft):
        return draft
    resources = draft.snapshot.job.spec.resources
    gpu_class = draft.snapshot.gpu_class(resources.gpu_class)
    if gpu_class is None:
        return _class_not_found(draft, resources)
    fault = _fault(resources, gpu_class)
    if fault is not None:
        refused = draft.condition(ConditionType.PLANNED, ConditionStatus.FALSE, Reason.INVALID_RESOURCES, fault)
        return fail_run(refused, Reason.INVALID_RESOURCES, fault)
    world = plan_world(resources, gpu_class)
    return _with_nodes(draft.update(plan=_plan(draft, world, gpu_class)), world, gpu_class)


def _is_placed(draft: Draft) -> bool:
    pods = draft.pods if draft.stage.shape.needs_class else ()
    return bool(pods) and all(pod.node_name for pod in pods) and bool(draft.status.plan)


def _class_not_found(draft: Draft, resources: Resources) -> Draft:
    known = ", ".join(sorted(draft.snapshot.fleet.gpu_classes)) or "none"
    message = compose(
        f"There is no GPUClass {resources.gpu_class!r}; there are:",
        known,
        "Name one of these in spec.resources.gpuClass, or have an admin create it.",
    )
    waiting = draft.condition(ConditionType.PLANNED, ConditionStatus.FALSE, Reason.GPU_CLASS_NOT_FOUND, message)
    if _is_underway(draft.snapshot):
        return waiting
    return waiting.summary(Reason.GPU_CLASS_NOT_FOUND, message, "Pending").settle()


def _is_underway(snapshot: Snapshot) -> bool:
    """A child exists: it is followed to its end, class or no class."""
    return bool(snapshot.status.child)


def _fault(resources: Resources, gpu_class: GpuClass) -> str | None:
    gpus = gpus_per_node(resources, gpu_class)
    if gpus and not gpu_class.resource_name:
        return (
            f"spec.resources.gpusPerNode: class {gpu_class.name} has no device. "
            "Set it to 0 or leave it out, or choose a class with a resourceName."
        )
    processes = resources.processes_per_node
    if gpus and processes and processes != gpus:
        return (
            f"spec.resources.processesPerNode: {processes} processes cannot share {gpus} GPU(s), as one process drives "
            "one GPU. Leave it out, or set gpusPerNode to the same number."
        )
    return None


def _plan(draft: Draft, world: World, gpu_class: GpuClass) -> dict[str, object]:
    training = draft.snapshot.job.spec.training
    batch = world.size * training.per_device_batch_size * training.gradient_accumulation_steps
    plan: dict[str, object] = {
        "gpuClass": gpu_class.name,
        "resourceName": gpu_class.resource_name,
        "nodes": world.nodes,
        "gpusPerNode": world.gpus_per_node,
        "processesPerNode": world.processes_per_node,
        "globalBatchSize": batch,
    }
    predicted = draft.status.plan.get("predictedMemory")
    kept = {"predictedMemory": predicted} if predicted else {}
    return {name: value for name, value in plan.items() if value != ""} | kept


def _with_nodes(draft: Draft, world: World, gpu_class: GpuClass) -> Draft:
    shortage = node_shortage(draft.snapshot, world, gpu_class)
    if shortage is None:
        message = (
            f"{world.nodes} node(s) of class {gpu_class.name}, each with {world.processes_per_node} process(es) and "
            f"{world.gpus_per_node} GPU(s)."
        )
        return draft.condition(ConditionType.PLANNED, ConditionStatus.TRUE, Reason.PLANNED, message)
    reason, message = shortage
    return draft.condition(ConditionType.PLANNED, ConditionStatus.UNKNOWN, reason, message)


def node_shortage(snapshot: Snapshot, world: World, gpu_class: GpuClass) -> tuple[str, str] | None:
    """Reason and message when not enough nodes could ever take the pods; None when they could.

    Non-terminal: an autoscaler may make the nodes, and it wants to see the pending pod.
    """
    capacity = snapshot.fleet.capacity(gpu_class.name)
    if not capacity.nodes and gpu_class.terms:
        return Reason.NO_MATCHING_NODES, compose(
            f"No node belongs to class {gpu_class.name}:",
            snapshot.fleet.why_empty(gpu_class),
            "Label the nodes, correct the GPUClass, add nodes, or choose another class.",
        )
    fitting = capacity.nodes_with(world.gpus_per_node)
    if fitting < world.nodes:
        device = f" with {world.gpus_per_node} {gpu_class.resource_name}" if world.gpus_per_node else ""
        return Reason.TOO_FEW_NODES, compose(
            f"{world.nodes} node(s) of class {gpu_class.name}{device} wanted; "
            f"{capacity.nodes} belong to the class, {fitting} have enough devices.",
            cure="Add nodes, or lower spec.resources.nodes or gpusPerNode.",
        )
    return None
