"""Status of a GPUClass: how many nodes belong to it, and how many devices they offer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.core.fleet import Fleet
from finetune_operator.core.objects import Raw
from finetune_operator.core.plan import Plan


@dataclass(frozen=True)
class ClassSnapshot:
    """Everything that was observed for one GPUClass at one instant: the one argument of `decide_class`."""

    raw: Raw
    fleet: Fleet


Status = Mapping[str, Any]


def observe_generation(status: Status, snapshot: ClassSnapshot) -> Status:
    return {**status, "observedGeneration": snapshot.raw["metadata"].get("generation", 0)}


def count_nodes(status: Status, snapshot: ClassSnapshot) -> Status:
    capacity = snapshot.fleet.capacity(snapshot.raw["metadata"]["name"])
    return {**status, "nodes": capacity.nodes, "devices": capacity.devices}


CHAIN: Sequence[Callable[[Status, ClassSnapshot], Status]] = (observe_generation, count_nodes)


def decide_class(snapshot: ClassSnapshot) -> Plan:
    status: Status = {}
    for step in CHAIN:
        status = step(status, snapshot)
    return Plan(status=status)
