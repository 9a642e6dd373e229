"""What the API server itself refuses, and what a user reads then: every CEL rule, enum and bound of both CRDs.

Runs against a real API server, by dry runs. The last tests compare the tables with the CRDs: a rule without a row that
is accepted and one that is refused fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dev.kit.specs import Changes, changed
from tests.api.crds import CLASS, JOB, Api, install, schema, walk

pytestmark = pytest.mark.cluster

BASES = {"FineTuneJob": JOB, "GPUClass": CLASS}


@pytest.fixture(scope="module")
def api(control_plane: Any) -> Iterator[Api]:
    install(control_plane.kubectl)
    api = Api(control_plane.kubeconfig, control_plane.context)
    yield api
    api.close()


# --- every CEL rule ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """A rule, found by its kind, its place in the schema and a part of its message."""

    kind: str
    path: str
    message: str
    accepted: dict[str, Changes]
    refused: dict[str, Changes]


QLORA = {"type": "qlora", "lora": {}, "quantization": {"bits": 4}}
QLORA8 = {"type": "qlora", "lora": {}, "quantization": {"bits": 8}}
FREEZE = {"type": "freeze", "freeze": {"trainableLayers": 2}}
SOURCES = {
    "a bucket without a key": "s3://data",
    "a bucket and a bare slash": "s3://data/",
    "a claim without a path": "pvc://claim",
    "a relative file": "file://rows.jsonl",
    "a web address": "https://example.com/rows.jsonl",
    "a bare path": "/data/rows.jsonl",
    "nothing": "",
}
GOOD_SOURCES = {
    "an object": "s3://data/faq.jsonl",
    "a folder": "s3://data/faq/",
    "a claim": "pvc://claim/faq.jsonl",
    "a file of the image": "file:///data/faq.jsonl",
}
EXPRESSION = "spec.nodeSelectorTerms.0.matchExpressions.0"

RULES = [
    Rule(
        "FineTuneJob",
        "",
        "metadata.name must be at most 40 lower-case letters",
        accepted={
            "one letter": {"metadata.name": "a"},
            "40 characters": {"metadata.name": "a" * 40},
            "digits and dashes": {"metadata.name": "faq-2-b"},
        },
        refused={
            "41 characters": {"metadata.name": "a" * 41},
            "a dot": {"metadata.name": "faq.v2"},
            "a digit first": {"metadata.name": "2faq"},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec",
        "method.quantization.bits 8 cannot be partitioned by ZeRO-3",
        accepted={
            "4 bits under ZeRO-3": {"spec.method": QLORA, "spec.training.deepspeed": {"stage": 3}},
            "8 bits under ZeRO-2": {"spec.method": QLORA8, "spec.training.deepspeed": {"stage": 2}},
            "8 bits without DeepSpeed": {"spec.method": QLORA8},
        },
        refused={"8 bits under ZeRO-3": {"spec.method": QLORA8, "spec.training.deepspeed": {"stage": 3}}},
    ),
    Rule(
        "FineTuneJob",
        "spec",
        "method.type freeze under ZeRO-3 needs training.gradientCheckpointing false",
        accepted={
            "freeze under ZeRO-2": {"spec.method": FREEZE, "spec.training.deepspeed": {"stage": 2}},
            "freeze under ZeRO-3 without checkpointing": {
                "spec.method": FREEZE,
                "spec.training.deepspeed": {"stage": 3},
                "spec.training.gradientCheckpointing": False,
            },
        },
        refused={"freeze under ZeRO-3": {"spec.method": FREEZE, "spec.training.deepspeed": {"stage": 3}}},
    ),
    Rule(
        "FineTuneJob",
        "spec.model",
        "model.source must be hf://org/name, s3://bucket/prefix, pvc://claim/path or file:///path",
        accepted={
            "the hub": {"spec.model.source": "hf://Qwen/Qwen2.5-7B-Instruct"},
            "a folder in S3": {"spec.model.source": "s3://models/qwen/"},
            "a GGUF file": {"spec.model.source": "s3://models/qwen.Q4_1.gguf"},
            "a claim": {"spec.model.source": "pvc://models/qwen"},
            "a folder of the image": {"spec.model.source": "file:///models/qwen"},
        },
        refused={
            **{name: {"spec.model.source": source} for name, source in SOURCES.items()},
            "the hub without an organisation": {"spec.model.source": "hf://qwen"},
            "the hub's web address": {"spec.model.source": "https://huggingface.co/Qwen/Qwen2.5-7B"},
            "a bare name": {"spec.model.source": "Qwen/Qwen-7B"},
            "another cloud": {"spec.model.source": "gs://models/qwen"},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.model",
        "model.revision belongs to an hf:// source",
        accepted={
            "a revision of the hub": {"spec.model.source": "hf://Qwen/Qwen2.5-7B", "spec.model.revision": "main"}
        },
        refused={"a revision of a bucket": {"spec.model.revision": "main"}},
    ),
    Rule(
        "FineTuneJob",
        "spec.dataset.train.0",
        "a dataset source must be s3://bucket/key, pvc://claim/path or file:///path",
        accepted={name: {"spec.dataset.train.0.source": source} for name, source in GOOD_SOURCES.items()},
        refused={
            **{name: {"spec.dataset.train.0.source": source} for name, source in SOURCES.items()},
            "the hub": {"spec.dataset.train.0.source": "hf://org/rows"},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.dataset.evaluation",
        "a dataset source must be s3://bucket/key, pvc://claim/path or file:///path",
        accepted={name: {"spec.dataset.evaluation": {"source": source}} for name, source in GOOD_SOURCES.items()},
        refused={name: {"spec.dataset.evaluation": {"source": source}} for name, source in SOURCES.items()},
    ),
    Rule(
        "FineTuneJob",
        "spec.method",
        "method.lora is required for type lora and qlora (lora: {rank: 16}), and only for them",
        accepted={
            "lora with its block": {"spec.method": {"type": "lora", "lora": {"rank": 4}}},
            "full without": {"spec.method": {"type": "full"}},
        },
        refused={
            "lora without its block": {"spec.method": {"type": "lora"}},
            "qlora without it": {"spec.method": {"type": "qlora", "quantization": {"bits": 4}}},
            "full with it": {"spec.method": {"type": "full", "lora": {}}},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.method",
        "method.quantization is required for type qlora (quantization: {bits: 4}), and only for it",
        accepted={"qlora with its block": {"spec.method": QLORA}},
        refused={
            "qlora without its block": {"spec.method": {"type": "qlora", "lora": {}}},
            "quantization on lora": {"spec.method": {"type": "lora", "lora": {}, "quantization": {"bits": 4}}},
            "quantization on full": {"spec.method": {"type": "full", "quantization": {"bits": 8}}},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.method",
        "method.freeze is required for type freeze (freeze: {trainableLayers: 2}), and only for it",
        accepted={"freeze with its block": {"spec.method": FREEZE}},
        refused={
            "freeze without its block": {"spec.method": {"type": "freeze"}},
            "full with it": {"spec.method": {"type": "full", "freeze": {"trainableLayers": 2}}},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.resources",
        "resources.processesPerNode must equal gpusPerNode: one process drives one GPU; leave it out",
        accepted={
            "equal": {"spec.resources.gpusPerNode": 4, "spec.resources.processesPerNode": 4},
            "several on a class without a device": {
                "spec.resources.gpusPerNode": 0,
                "spec.resources.processesPerNode": 2,
            },
            "processes alone": {"spec.resources.processesPerNode": 2},
        },
        refused={"three on four": {"spec.resources.gpusPerNode": 4, "spec.resources.processesPerNode": 3}},
    ),
    Rule(
        "FineTuneJob",
        "spec.resources",
        "resources.cpu and resources.memory must be quantities above 0",
        accepted={
            "whole and binary": {"spec.resources.cpu": "8", "spec.resources.memory": "32Gi"},
            "a number without quotes": {"spec.resources.cpu": 8},
            "milli and decimal": {"spec.resources.cpu": "200m", "spec.resources.memory": "3G"},
        },
        refused={
            "no CPU": {"spec.resources.cpu": "0"},
            "no CPU, as a number": {"spec.resources.cpu": 0},
            "no memory": {"spec.resources.memory": "0"},
            "negative": {"spec.resources.cpu": "-1"},
            "a word": {"spec.resources.cpu": "lots"},
            "a unit that is none": {"spec.resources.memory": "32GB"},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.output",
        "output.uri must be s3://bucket/prefix",
        accepted={"a prefix": {"spec.output.uri": "s3://adapters/faq/"}},
        refused={
            "a bucket alone": {"spec.output.uri": "s3://adapters"},
            "a claim": {"spec.output.uri": "pvc://claim/adapters"},
            "a path": {"spec.output.uri": "/adapters"},
            "a web address": {"spec.output.uri": "https://s3.example.com/adapters"},
        },
    ),
    Rule(
        "FineTuneJob",
        "spec.storage",
        "storage.endpoint must be http(s)://host[:port] without a path; leave it out for AWS",
        accepted={
            "a service": {"spec.storage.endpoint": "http://s3.storage.svc:8333"},
            "a trailing slash": {"spec.storage.endpoint": "https://s3.example.com/"},
        },
        refused={
            "no scheme": {"spec.storage.endpoint": "s3.storage.svc:8333"},
            "a path": {"spec.storage.endpoint": "https://s3.example.com/bucket"},
            "nothing": {"spec.storage.endpoint": ""},
        },
    ),
    Rule(
        "GPUClass",
        "spec",
        "a class with a resourceName needs nodeSelectorTerms",
        accepted={
            "resource, terms and memory": {},
            "nothing, as for cpu": {"spec": {}},
            "terms without a resource": {"spec.resourceName": None},
        },
        refused={"no terms": {"spec.nodeSelectorTerms": None}, "no memory": {"spec.memory": None}},
    ),
    Rule(
        "GPUClass",
        "spec",
        "memory must be a quantity above 0, for example 80Gi",
        accepted={"binary": {"spec.memory": "80Gi"}, "decimal": {"spec.memory": "80G"}},
        refused={
            "a unit that is none": {"spec.memory": "80GB"},
            "zero": {"spec.memory": "0"},
            "a word": {"spec.memory": "big"},
        },
    ),
    Rule(
        "GPUClass",
        EXPRESSION,
        "operators In, NotIn, Gt and Lt need values; Exists and DoesNotExist take none",
        accepted={
            "In with a value": {},
            "Exists without": {EXPRESSION: {"key": "gpu", "operator": "Exists"}},
            "DoesNotExist with an empty list": {EXPRESSION: {"key": "gpu", "operator": "DoesNotExist", "values": []}},
        },
        refused={
            "In without": {EXPRESSION: {"key": "gpu", "operator": "In"}},
            "NotIn with an empty list": {EXPRESSION: {"key": "gpu", "operator": "NotIn", "values": []}},
            "Exists with a value": {EXPRESSION: {"key": "gpu", "operator": "Exists", "values": ["a"]}},
        },
    ),
    Rule(
        "GPUClass",
        EXPRESSION,
        "operators Gt and Lt need exactly one value, a whole number in quotes",
        accepted={
            "Gt with a number": {EXPRESSION: {"key": "memory", "operator": "Gt", "values": ["80895"]}},
            "Lt with a number": {EXPRESSION: {"key": "memory", "operator": "Lt", "values": ["84000"]}},
        },
        refused={
            "Gt with a quantity": {EXPRESSION: {"key": "memory", "operator": "Gt", "values": ["80Gi"]}},
            "Lt with two": {EXPRESSION: {"key": "memory", "operator": "Lt", "values": ["1", "2"]}},
        },
    ),
    Rule(
        "GPUClass",
        "spec.tolerations.0",
        "a toleration with operator Exists takes no value",
        accepted={
            "Exists alone": {"spec.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
            "Equal with a value": {"spec.tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}]},
            "neither": {"spec.tolerations": [{"key": "gpu", "value": "yes"}]},
        },
        refused={"Exists with a value": {"spec.tolerations": [{"key": "gpu", "operator": "Exists", "value": "yes"}]}},
    ),
]

ACCEPTED = [
    pytest.param(rule.kind, changes, id=f"{rule.path or 'name'}: {case}")
    for rule in RULES
    for case, changes in rule.accepted.items()
]
REFUSED = [
    pytest.param(rule, changes, id=f"{rule.path or 'name'}: {case}")
    for rule in RULES
    for case, changes in rule.refused.items()
]


@pytest.mark.parametrize(("kind", "changes"), ACCEPTED)
def test_a_rule_accepts(api: Api, kind: str, changes: Changes) -> None:
    assert api.refusal(changed(BASES[kind], changes)) is None


@pytest.mark.parametrize(("rule", "changes"), REFUSED)
def test_a_rule_refuses_and_says_what_would_do(api: Api, rule: Rule, changes: Changes) -> None:
    refusal = api.refusal(changed(BASES[rule.kind], changes))
    assert refusal is not None
    assert rule.message in refusal
    assert not re.search(r"evaluating rule|no such key|no such overload", refusal), "the rule itself failed"


# --- every enum and bound, as the schema states them -------------------------------------------------------------
@dataclass(frozen=True)
class Bound:
    kind: str
    path: str
    name: str
    good: Any
    bad: Any

    def changes(self, value: Any) -> Changes:
        """`value` at the place, and around it what makes the rest of the object valid."""
        around = _METHODS.get(value, {}) if self.path == "spec.method.type" else _CONTEXT.get(self.path, {})
        return {**around, self.path: value}


# What has to stand around a field, or instead of a filler, for the value under test to be the only fault.
_METHODS: dict[str, Changes] = {
    "qlora": {"spec.method": QLORA},
    "full": {"spec.method": {}},
    "freeze": {"spec.method": FREEZE},
}
_TOLERATION = ("key", "operator", "value", "effect")
_CONTEXT: dict[str, Changes] = {
    "spec.model.revision": {"spec.model.source": "hf://Qwen/Qwen2.5-7B"},
    "spec.method.quantization.bits": {"spec.method": QLORA},
    "spec.method.freeze.trainableLayers": {"spec.method": FREEZE},
    "spec.method.lora.targets.0": {"spec.method.lora": {"targets": ["q_proj"]}},
    "spec.dataset.evaluation.source": {"spec.dataset.evaluation": {"source": "s3://data/eval.jsonl"}},
    f"{EXPRESSION}.operator": {EXPRESSION: {"key": "gpu", "values": ["1"]}},
    **{f"spec.tolerations.0.{name}": {"spec.tolerations": [{"key": "gpu"}]} for name in _TOLERATION},
}
_FILLERS = {
    "spec.model.source": "s3://models/",
    "spec.dataset.train.0.source": "s3://data/",
    "spec.dataset.evaluation.source": "s3://data/",
    "spec.output.uri": "s3://adapters/",
    "spec.storage.endpoint": "http://",
    "spec.resources.cpu": "0000",
    "spec.resources.memory": "0000",
    "spec.memory": "0000",
    "spec.computeCapability": "",
}
_DIGITS = {"spec.resources.cpu", "spec.resources.memory", "spec.memory"}
_ITEMS = {
    "spec.dataset.train": {"source": "s3://data/faq.jsonl"},
    "spec.method.lora.targets": "q_proj",
    "spec.nodeSelectorTerms": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
    "spec.nodeSelectorTerms.0.matchExpressions": {"key": "gpu", "operator": "Exists"},
    f"{EXPRESSION}.values": "a100",
    "spec.tolerations": {"key": "gpu", "operator": "Exists"},
}
# Operators that no list of values of this length suits are tried by the rules above.
_ALONE = {f"{EXPRESSION}.operator": ["In", "NotIn", "Gt", "Lt"]}


def bounds(kind: str) -> Iterator[Bound]:
    for node in walk(schema(kind)):
        path, one = node.path, node.schema
        if "enum" in one:
            for value in _ALONE.get(path, one["enum"]):
                yield Bound(kind, path, f"enum {value}", value, "No-Such" if one["type"] == "string" else 97)
        if "minimum" in one:
            tiny = one["minimum"] + (1e-9 if one.get("exclusiveMinimum") else 0)
            below = one["minimum"] - (0 if one.get("exclusiveMinimum") else 1)
            yield Bound(kind, path, "minimum", tiny, below)
        if "maximum" in one:
            yield Bound(kind, path, "maximum", one["maximum"], one["maximum"] + 1)
        if "minLength" in one:
            yield Bound(kind, path, "minLength", _text(path, one["minLength"]), "")
        if "maxLength" in one:
            yield Bound(kind, path, "maxLength", _text(path, one["maxLength"]), _text(path, one["maxLength"] + 1))
        if "minItems" in one:
            yield Bound(kind, path, "minItems", [_ITEMS[path]] * one["minItems"], [])
        if "maxItems" in one:
            most = one["maxItems"]
            yield Bound(kind, path, "maxItems", [_ITEMS[path]] * most, [_ITEMS[path]] * (most + 1))
        if "pattern" in one:
            yield Bound(kind, path, "pattern", "8.0", "8")


def _text(path: str, length: int) -> str:
    return (_FILLERS.get(path, "") + ("1" if path in _DIGITS else "a") * length)[:length]


BOUNDS = [bound for kind in BASES for bound in bounds(kind)]


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound.path} {bound.name}")
def test_a_bound_accepts_its_edge_and_refuses_the_value_beyond(api: Api, bound: Bound) -> None:
    base = BASES[bound.kind]
    assert api.refusal(changed(base, bound.changes(bound.good))) is None
    refusal = api.refusal(changed(base, bound.changes(bound.bad)))
    assert refusal is not None
    assert re.sub(r"\.0(?=\.|$)", "[0]", bound.path) in refusal


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        pytest.param(kind, f"{node.path}.{name}", id=f"{node.path}.{name}")
        for kind in BASES
        for node in walk(schema(kind))
        if node.path
        for name in node.schema.get("required", [])
    ],
)
def test_a_required_field_is_named_when_it_is_missing(api: Api, kind: str, path: str) -> None:
    parent = path.rpartition(".")[0]
    around = {
        "spec.method.freeze": {"spec.method": FREEZE},
        "spec.training.deepspeed": {"spec.training.deepspeed": {"stage": 1}},
        "spec.dataset.evaluation": {"spec.dataset.evaluation": {"source": "s3://data/eval.jsonl"}},
    }
    refusal = api.refusal(changed(BASES[kind], {**around.get(parent, {}), path: None}))
    assert refusal is not None
    assert f"{re.sub(r'[.]0(?=[.]|$)', '[0]', path)}: Required value" in refusal


# --- what people get wrong ---------------------------------------------------------------------------------------
MISTAKES = {
    "a learning rate of zero": (
        {"spec.training.learningRate": 0},
        "spec.training.learningRate in body should be greater than 0",
    ),
    "a learning rate above one": (
        {"spec.training.learningRate": 5},
        "spec.training.learningRate in body should be less than or equal to 1",
    ),
    "a learning rate in quotes": (
        {"spec.training.learningRate": "2e-4"},
        'spec.training.learningRate in body must be of type number: "string"',
    ),
    "no learning rate": ({"spec.training.learningRate": None}, "spec.training.learningRate: Required value"),
    "negative steps": ({"spec.training.maxSteps": -1}, "spec.training.maxSteps in body should be greater than"),
    "half a step": ({"spec.training.maxSteps": 1.5}, "spec.training.maxSteps"),
    "no epochs": ({"spec.training.epochs": 0}, "spec.training.epochs in body should be greater than 0"),
    "a batch of nothing": ({"spec.training.perDeviceBatchSize": 0}, "perDeviceBatchSize in body should be greater"),
    "an unknown template": (
        {"spec.dataset.template": "qwen"},
        'Unsupported value: "qwen": supported values: "auto", "chatml", "llama3", "alpaca", "default"',
    ),
    "an unknown method": ({"spec.method.type": "llamaPro"}, 'spec.method.type: Unsupported value: "llamaPro"'),
    "a stage to come": ({"spec.stage": "dpo"}, 'spec.stage: Unsupported value: "dpo": supported values: "sft"'),
    "a precision in LLaMA-Factory's words": ({"spec.training.precision": True}, "spec.training.precision"),
    "no rows": ({"spec.dataset.train": []}, "spec.dataset.train in body should have at least 1 items"),
    "a misspelt field": ({"spec.training.learning_rate": 1e-4}, 'unknown field "spec.training.learning_rate"'),
    "an unknown field": ({"spec.training.packing": True}, 'unknown field "spec.training.packing"'),
    "keys in the job": ({"spec.storage.accessKey": "AKIA"}, 'unknown field "spec.storage.accessKey"'),
    "no spec": ({"spec": None}, "spec: Required value"),
    "no secret": ({"spec.storage": {}}, "spec.storage.secretName: Required value"),
    "memory as a number": ({"spec.resources.memory": 4}, 'spec.resources.memory in body must be of type string'),
    "two nodes too many": ({"spec.resources.nodes": 257}, "spec.resources.nodes in body should be less than or equal"),
    "upper case": ({"metadata.name": "FAQ"}, "RFC 1123 subdomain"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_at_apply_and_named(api: Api, changes: Changes, message: str) -> None:
    refusal = api.refusal(changed(JOB, changes))
    assert refusal is not None
    assert message in refusal


# --- nothing is forgotten ----------------------------------------------------------------------------------------
def _stated_rules() -> list[tuple[str, str, str]]:
    return [
        (kind, node.path, rule["message"])
        for kind in BASES
        for node in walk(schema(kind))
        for rule in node.schema.get("x-kubernetes-validations", [])
    ]


@pytest.mark.parametrize(("kind", "path", "message"), _stated_rules(), ids=lambda text: text[:60] or "object")
def test_every_rule_of_the_crds_has_rows_that_are_accepted_and_refused(kind: str, path: str, message: str) -> None:
    [rule] = [rule for rule in RULES if (rule.kind, rule.path) == (kind, path) and rule.message in message]
    assert rule.accepted
    assert rule.refused


def test_no_row_is_about_a_rule_that_is_gone() -> None:
    assert len(RULES) == len(_stated_rules())


def test_every_rule_has_a_message_of_its_own() -> None:
    for kind in BASES:
        for node in walk(schema(kind)):
            for rule in node.schema.get("x-kubernetes-validations", []):
                assert rule.get("message"), f"{kind} {node.path}: {rule['rule']}"


def test_every_string_and_list_of_the_spec_is_bounded() -> None:
    """Otherwise CEL's estimated cost grows, and one object may fill etcd."""
    for kind in BASES:
        for node in walk(schema(kind)["properties"]["spec"], "spec"):
            one = node.schema
            if one.get("type") == "string" or one.get("x-kubernetes-int-or-string"):
                assert "maxLength" in one or "enum" in one or "pattern" in one, f"{kind} {node.path}"
            if one.get("type") == "array":
                assert "maxItems" in one, f"{kind} {node.path}"
