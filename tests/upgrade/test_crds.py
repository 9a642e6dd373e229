"""The CRDs of today against those of the release: what was valid stays valid, and no stored object changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.api import crds
from tests.upgrade.released import FIXTURES

KINDS = ("FineTuneJob", "GPUClass")
Schemas = dict[str, Any]
"""Path of a field → its schema; `0` is an item of a list."""


def released(kind: str) -> Schemas:
    documents = [yaml.safe_load(path.read_text()) for path in (FIXTURES / "crds").glob("*.yaml")]
    [found] = [document for document in documents if document["spec"]["names"]["kind"] == kind]
    return fields(found)


def todays(kind: str) -> Schemas:
    return fields(crds.crd(kind))


def fields(crd: Any) -> Schemas:
    """Of spec: status has no defaults, and the operator alone writes it."""
    [version] = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return {node.path: node.schema for node in crds.walk(spec, "spec")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_release_is_there_with_its_type(kind: str) -> None:
    now = todays(kind)
    gone = {path for path, schema in released(kind).items() if now.get(path, {}).get("type") != schema.get("type")}
    assert gone == set()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_required_that_the_release_did_not_require(kind: str) -> None:
    before = released(kind)
    more = {
        path: sorted(added)
        for path, schema in todays(kind).items()
        if path in before and (added := set(schema.get("required", ())) - set(before[path].get("required", ())))
    }
    assert more == {}


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_of_an_enum_is_taken_away(kind: str) -> None:
    now = todays(kind)
    fewer = {
        path: sorted(lost)
        for path, schema in released(kind).items()
        if "enum" in now.get(path, {}) and (lost := set(schema.get("enum", ())) - set(now[path]["enum"]))
    }
    assert fewer == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_the_release_does_not_know_has_no_default(kind: str) -> None:
    """Else the API server would add it to every stored object, and an operator that is older would not know it."""
    before = released(kind)
    assert {path for path, schema in todays(kind).items() if path not in before and "default" in schema} == set()
