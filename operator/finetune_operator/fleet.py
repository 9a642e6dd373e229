"""Keeps `core.fleet.Fleet` up to date, change by change: a node is parsed and matched once, when it changes."""

from finetune_operator.core.fleet import Capacity, Fleet, capacity_of, devices_offered
from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.ports import GPUCLASSES, NODES, Json, Resource


class FleetView:
    """Takes nodes and GPUClasses as they come and go. What it handed out never changes."""

    def __init__(self) -> None:
        self._gpu_classes: dict[str, GpuClass] = {}
        self._nodes: dict[str, Node] = {}
        self._devices: dict[str, dict[str, int]] = {}  # by class, then node: members only
        self._fleet: Fleet | None = None

    def now(self) -> Fleet:
        if self._fleet is None:
            self._fleet = Fleet(
                dict(self._gpu_classes),
                dict(self._nodes),
                {name: Capacity(dict(devices)) for name, devices in self._devices.items()},
            )
        return self._fleet

    def take(self, resource: Resource, name: str, obj: Json | None) -> frozenset[str]:
        """An object of this name as it is now, None when it is gone. Returns the names of the GPUClasses whose
        definition, nodes or devices this changed."""
        if resource == NODES:
            return self._take_node(name, None if obj is None else Node.parse(obj))
        if resource == GPUCLASSES:
            return self._take_class(name, None if obj is None else GpuClass.parse(obj))
        return frozenset()

    def _take_node(self, name: str, node: Node | None) -> frozenset[str]:
        if node == self._nodes.get(name):
            return frozenset()
        self._fleet = None
        if node is None:
            del self._nodes[name]
        else:
            self._nodes[name] = node
        return frozenset(gpu_class.name for gpu_class in self._gpu_classes.values() if self._moves(gpu_class, name))

    def _moves(self, gpu_class: GpuClass, name: str) -> bool:
        """Count this node again. True when that changes the class."""
        node, devices = self._nodes.get(name), self._devices[gpu_class.name]
        offered = None if node is None else devices_offered(node, gpu_class)
        if offered == devices.get(name):
            return False
        if offered is None:
            del devices[name]
        else:
            devices[name] = offered
        return True

    def _take_class(self, name: str, gpu_class: GpuClass | None) -> frozenset[str]:
        if gpu_class == self._gpu_classes.get(name):
            return frozenset()
        self._fleet = None
        if gpu_class is None:
            del self._gpu_classes[name], self._devices[name]
        else:
            self._gpu_classes[name] = gpu_class
            self._devices[name] = dict(capacity_of(gpu_class, self._nodes.values()).devices_of)
        return frozenset({name})
