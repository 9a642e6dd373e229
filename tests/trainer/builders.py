"""Job files for tests: the defaults of the CRD, and what a test changes."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune_contract.jobspec import CONTRACT_VERSION, Attempt, Identity, JobFile, Prepared, Spec, World

_CRD = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"


def make_job(
    spec: Mapping[str, Any] | None = None,
    *,
    model: Path | str = "file:///model",
    train: Path | str = "file:///train.jsonl",
    nodes: int = 1,
    processes: int = 1,
    gpus: int = 0,
    prepared: Prepared | None = None,
    name: str = "faq",
) -> JobFile:
    """A job file as the operator would mount it.

    Args:
        spec: the user's spec in the CRD's spelling; what it leaves out is taken from the CRD's defaults.
        model, train: sources; paths become file:// URIs.
    """
    written = {
        "model": {"source": _uri(model)},
        "dataset": {"train": [{"source": _uri(train)}]},
        "method": {"type": "lora", "lora": {}},
        "training": {"learningRate": 1e-3},
        "output": {"uri": "s3://bucket/out"},
        "storage": {"secretName": "s3-keys"},
    }
    document = {
        "version": CONTRACT_VERSION,
        "identity": Identity(
            namespace="default",
            name=name,
            uid="0b5a2f1e-7c1d-4a53-9f0a-1b2c3d4e5f60",
            run=1,
            config_hash="c0ffee",
            image="trainer:test",
        ).model_dump(by_alias=True),
        "attempt": Attempt(number=1, reason="FirstAttempt", resume="newest").model_dump(by_alias=True),
        "spec": with_defaults(_spec_schema(), _merge(written, spec or {})),
        "world": World(nodes=nodes, processes_per_node=processes, gpus_per_node=gpus, gpu_class="cpu").model_dump(
            by_alias=True
        ),
        "prepared": prepared and prepared.model_dump(by_alias=True),
    }
    return JobFile.parse(json.dumps(document))


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """Fills defaults in as the API server does: parents first, then the fields of objects that are there."""
    if isinstance(value, Mapping):
        filled = dict(value)
        for name, field in schema.get("properties", {}).items():
            if name not in filled and "default" in field:
                filled[name] = field["default"]
            if name in filled:
                filled[name] = with_defaults(field, filled[name])
        return filled
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    return value


@cache
def _spec_schema() -> dict[str, Any]:
    """Of what the trainer reads."""
    to_read = [field.alias or name for name, field in Spec.model_fields.items()]
    crd = yaml.safe_load(_CRD.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]
    return {**spec, "properties": {name: spec["properties"][name] for name in to_read}}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; objects are merged, except a method, whose blocks exclude each other."""
    merged = dict(base)
    for key, value in over.items():
        mergeable = key != "method" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if mergeable else value
    return merged


def _uri(source: Path | str) -> str:
    return f"file://{source}" if isinstance(source, Path) else source
