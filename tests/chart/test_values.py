"""The chart's values: what the schema refuses and says, and that values, schema and README tell the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from docs import generate_values
from tests.chart.conftest import CHART, ChartError

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"replicas": 2}, "additional properties 'replicas' not allowed", id="a value that does not exist"),
        pytest.param({"image": {"tagg": "x"}}, "at '/image': additional properties 'tagg' not allowed", id="a slip"),
        pytest.param({"replicaCount": "two"}, "at '/replicaCount': got string, want integer", id="a word for a number"),
        pytest.param({"replicaCount": -1}, "at '/replicaCount': minimum", id="a negative count"),
        pytest.param({"log": {"level": "loud"}}, "value must be one of 'debug', 'info'", id="an unknown log level"),
        pytest.param({"image": {"pullPolicy": "Maybe"}}, "value must be one of 'Always'", id="an unknown pull policy"),
        pytest.param({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match", id="no digest"),
        pytest.param({"image": {"repository": ""}}, "at '/image/repository': minLength", id="no repository"),
        pytest.param({"watchNamespaces": "ml"}, "at '/watchNamespaces': got string, want array", id="no list"),
        pytest.param({"watchNamespaces": ["ML"]}, "at '/watchNamespaces/0': 'ML' does not match", id="no namespace"),
        pytest.param({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal", id="twice"),
        pytest.param({"progressIntervalSeconds": 0}, "at '/progressIntervalSeconds': minimum", id="no interval"),
        pytest.param({"testing": {"allowCpuForGpu": "yes"}}, "got string, want boolean", id="a word for a switch"),
        pytest.param(
            {"gpuClasses": {"custom": {"x": 1}}}, "got number, want null or boolean or object", id="no spec of a class"
        ),
        pytest.param({"networkPolicy": {"apiServerPorts": [0]}}, "minimum: got 0, want 1", id="no port"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(render, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ChartError, match=re.escape(message)):
        render(values)


def _objects(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    here = [(path, schema)] if "properties" in schema else []
    return here + [
        found for name, child in schema.get("properties", {}).items() for found in _objects(child, f"{path}.{name}")
    ]


def test_the_schema_knows_every_value_and_no_other() -> None:
    def keys(value: Any, schema: dict[str, Any], path: str) -> None:
        if "properties" in schema:
            assert set(value) <= set(schema["properties"]), path
            missing = set(schema["properties"]) - set(value) - {"global", "claims"}
            assert not missing, f"{path} lacks {missing}"
            for name, child in value.items():
                keys(child, schema["properties"][name], f"{path}.{name}")

    keys(VALUES, SCHEMA, "values")


def test_the_schema_is_strict_wherever_the_chart_defines_the_keys() -> None:
    assert all(schema["additionalProperties"] is False for _, schema in _objects(SCHEMA))


def test_every_value_has_a_comment_and_the_readme_shows_it() -> None:
    rows = generate_values.rows()
    assert [row.key for row in rows if not row.comment] == []
    readme = (CHART / "README.md").read_text()
    assert readme == generate_values.render(), "run: python -m docs.generate_values"
