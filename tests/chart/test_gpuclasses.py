"""The GPU classes that the chart installs: the file of defaults, and what a user adds, replaces or leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart.conftest import CHART

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "gpuclasses.yaml").read_text())
MINE = {"resourceName": "nvidia.com/mig-1g.10gb", "memory": "9Gi", "nodeSelectorTerms": [{"matchExpressions": []}]}


def installed(rendered: Any) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"] for one in rendered.all("GPUClass")}


def test_by_default_the_classes_are_those_of_the_file(render) -> None:
    assert installed(render()) == DEFAULTS


def test_none_are_installed_when_the_defaults_are_off(render) -> None:
    assert installed(render({"gpuClasses": {"defaults": False}})) == {}


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        pytest.param({"slice": MINE}, {**DEFAULTS, "slice": MINE}, id="a class beside the defaults"),
        pytest.param({"t4-16gb": MINE}, {**DEFAULTS, "t4-16gb": MINE}, id="a default replaced as a whole"),
        pytest.param(
            {"t4-16gb": False},
            {name: spec for name, spec in DEFAULTS.items() if name != "t4-16gb"},
            id="a default left out",
        ),
    ],
)
def test_a_user_adds_replaces_and_leaves_out(render, custom: dict[str, Any], expected: dict[str, Any]) -> None:
    assert installed(render({"gpuClasses": {"custom": custom}})) == expected


def test_a_class_of_ones_own_can_stand_alone(render) -> None:
    assert installed(render({"gpuClasses": {"defaults": False, "custom": {"slice": MINE}}})) == {"slice": MINE}
