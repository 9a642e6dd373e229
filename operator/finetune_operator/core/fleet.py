"""The nodes and GPU classes of a cluster at one instant, and which node belongs to which class.

Parsed, matched and counted once for each change of a node or a class: a decision only looks up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.core.placement import is_member, why_none_matches


@dataclass(frozen=True)
class Capacity:
    """Devices that each node of one GPU class offers, by the node's name; 0 each for a class without devices."""

    devices_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        return len(self.devices_of)

    @property
    def devices(self) -> int:
        return sum(self.devices_of.values())

    def nodes_with(self, devices: int) -> int:
        """How many nodes have so many devices or more."""
        return sum(found >= devices for found in self.devices_of.values())


_NOTHING = Capacity()


@dataclass(frozen=True)
class Fleet:
    gpu_classes: Mapping[str, GpuClass] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    _capacities: Mapping[str, Capacity] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Why no node belongs to a class: explained when the first one asks."""

    @classmethod
    def of(cls, gpu_classes: Iterable[GpuClass], nodes: Iterable[Node]) -> "Fleet":
        members = list(nodes)
        by_name = {gpu_class.name: gpu_class for gpu_class in gpu_classes}
        return cls(
            by_name,
            {node.name: node for node in members},
            {name: capacity_of(gpu_class, members) for name, gpu_class in by_name.items()},
        )

    def gpu_class(self, name: str) -> GpuClass | None:
        return self.gpu_classes.get(name)

    def capacity(self, class_name: str) -> Capacity:
        return self._capacities.get(class_name, _NOTHING)

    def is_ready(self, node_name: str) -> bool:
        """False for a node that is not there."""
        node = self.nodes.get(node_name)
        return node is not None and node.is_ready

    def why_empty(self, gpu_class: GpuClass) -> str:
        """Why no node belongs to this class."""
        if gpu_class.name not in self._reasons:
            self._reasons[gpu_class.name] = why_none_matches(list(self.nodes.values()), gpu_class)
        return self._reasons[gpu_class.name]


def devices_offered(node: Node, gpu_class: GpuClass) -> int | None:
    """Devices of the class on this node; None when the node does not belong to it."""
    if not is_member(node, gpu_class):
        return None
    return node.devices(gpu_class.resource_name) if gpu_class.resource_name else 0


def capacity_of(gpu_class: GpuClass, nodes: Iterable[Node]) -> Capacity:
    offered = ((node.name, devices_offered(node, gpu_class)) for node in nodes)
    return Capacity({name: devices for name, devices in offered if devices is not None})
