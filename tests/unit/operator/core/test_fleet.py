"""Nodes and classes, parsed and counted once for each change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.core.fleet import Fleet
from finetune_operator.core.gpuclass import ClassSnapshot, decide_class
from finetune_operator.core.objects import GpuClass, Node
from finetune_operator.fleet import FleetView
from finetune_operator.ports import GPUCLASSES, NODES, Json, Resource
from tests.builders.jobs import PRODUCT, make_class, make_node, make_t4

T4 = {PRODUCT: "Tesla-T4"}


def a_view(*objects: tuple[Resource, Json]) -> FleetView:
    view = FleetView()
    for resource, obj in objects:
        view.take(resource, obj["metadata"]["name"], obj)
    return view


def test_a_class_counts_its_nodes_and_their_devices() -> None:
    nodes = [make_node("a", gpus=8, labels=T4), make_node("b", gpus=1, labels=T4), make_node("c", gpus=4)]
    fleet = Fleet.of([GpuClass.parse(make_t4()), GpuClass.parse(make_class("cpu"))], map(Node.parse, nodes))
    t4, cpu = fleet.capacity("t4-16gb"), fleet.capacity("cpu")
    assert (t4.nodes, t4.devices, t4.nodes_with(2), t4.nodes_with(0)) == (2, 9, 1, 2)
    assert (cpu.nodes, cpu.devices) == (3, 0)
    assert fleet.capacity("h100").nodes == 0
    raw = {"metadata": {"name": "t4-16gb", "generation": 3}}
    assert decide_class(ClassSnapshot(raw, fleet)).status == {"observedGeneration": 3, "nodes": 2, "devices": 9}


def test_a_change_names_the_classes_that_it_moves() -> None:
    view = a_view((GPUCLASSES, make_t4()), (GPUCLASSES, make_class("cpu")))
    assert view.take(NODES, "a", make_node("a", gpus=1)) == {"cpu"}
    assert view.take(NODES, "a", make_node("a", gpus=1, labels=T4)) == {"t4-16gb"}
    assert view.take(NODES, "a", make_node("a", gpus=2, labels=T4)) == {"t4-16gb"}
    assert view.take(NODES, "a", make_node("a", gpus=2, labels=T4, ready=False)) == set()
    assert view.take(NODES, "a", None) == {"t4-16gb", "cpu"}
    assert view.take(NODES, "a", None) == set()
    assert view.take(GPUCLASSES, "cpu", {**make_class("cpu"), "status": {"nodes": 1}}) == set()
    assert view.take(GPUCLASSES, "cpu", None) == {"cpu"}


def test_nothing_is_parsed_anew_while_nothing_changes() -> None:
    view = a_view((GPUCLASSES, make_t4()), (NODES, make_node("a", labels=T4)), (NODES, make_node("b")))
    before = view.now()
    view.take(NODES, "b", make_node("b"))
    assert view.now() is before
    view.take(NODES, "b", make_node("b", labels=T4))
    after = view.now()
    assert after.nodes["a"] is before.nodes["a"]
    assert (before.capacity("t4-16gb").nodes, after.capacity("t4-16gb").nodes) == (1, 2)


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.none(), st.tuples(st.integers(0, 2), st.sampled_from([{}, T4]), st.booleans())),
        st.one_of(st.none(), st.booleans()),
    ),
    max_size=20,
)


@given(_CHANGES)
def test_change_by_change_it_is_what_it_would_be_at_once(
    changes: list[tuple[str, tuple[int, dict[str, str], bool] | None, bool | None]],
) -> None:
    """Nodes come, change and go; so does a class."""
    view, nodes, classes = FleetView(), dict[str, Json](), dict[str, Json]()
    for name, node, t4 in changes:
        if node is None:
            nodes.pop(name, None)
        else:
            nodes[name] = make_node(name, gpus=node[0], labels=node[1], ready=node[2])
        view.take(NODES, name, nodes.get(name))
        if t4 is not None:
            classes = {"t4-16gb": make_t4()} if t4 else {}
            view.take(GPUCLASSES, "t4-16gb", classes.get("t4-16gb"))
    assert view.now() == Fleet.of(map(GpuClass.parse, classes.values()), map(Node.parse, nodes.values()))
