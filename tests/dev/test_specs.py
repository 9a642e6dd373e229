"""One minimal job, and one way to change a path of it."""

from __future__ import annotations

import pytest

from dev.kit.specs import changed, dotted, minimal_job, set_path, tiny_job
from tests.fakes.schema import schema_of, unknown_fields

CHANGES = {
    "a path is set": ({"a": {"b": 1}}, {"a.b": 2}, {"a": {"b": 2}}),
    "objects on the way are created": ({}, {"a.b.c": 1}, {"a": {"b": {"c": 1}}}),
    "a number is an index of a list": ({"a": [{"b": 1}, {"b": 2}]}, {"a.1.b": 3}, {"a": [{"b": 1}, {"b": 3}]}),
    "None removes the field": ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    "None for a field that is absent changes nothing": ({"b": 2}, {"a": None}, {"b": 2}),
    "later changes see earlier ones": ({}, {"a": {"b": 1}, "a.c": 2}, {"a": {"b": 1, "c": 2}}),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_changed(sentence: str) -> None:
    base, changes, want = CHANGES[sentence]
    before = changed(base, {})
    assert changed(base, changes) == want
    assert base == before, "the base stays as it was"


def test_set_path_takes_none_for_a_value() -> None:
    """A merge patch removes a field by null."""
    patch: dict[str, object] = {}
    set_path(patch, "spec.suspend", None)
    assert patch == {"spec": {"suspend": None}}


def test_values_are_copied() -> None:
    terms = [{"key": "a"}]
    job = minimal_job(changes={"x": terms})
    terms.append({"key": "b"})
    assert job["spec"]["x"] == [{"key": "a"}]


def test_keywords_spell_the_dot_as_two_underscores() -> None:
    assert dotted({"training__maxSteps": 2, "suspend": True}) == {"training.maxSteps": 2, "suspend": True}


def test_the_minimal_job_is_what_the_schema_requires_and_no_more() -> None:
    schema = schema_of("finetunejobs")["properties"]["spec"]
    assert set(minimal_job()["spec"]) >= set(schema["required"])
    assert list(unknown_fields(schema, minimal_job()["spec"])) == []
    assert list(unknown_fields(schema, tiny_job("tiny", bucket="b", endpoint="http://s3:8333")["spec"])) == []
    assert minimal_job("other")["metadata"] == {"name": "other"}
