"""Job files for tests: the defaults of the CRD, and what a test changes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dev.kit.specs import minimal_job
from finetune_contract.jobspec import CONTRACT_VERSION, Attempt, Identity, JobFile, Prepared, Spec, World
from tests.fakes.schema import schema_of, with_defaults


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
    written = minimal_job(
        changes={
            "model.source": _uri(model),
            "dataset.train.0.source": _uri(train),
            "training.learningRate": 1e-3,
            "output.uri": "s3://bucket/out",
            "storage.secretName": "s3-keys",
        }
    )["spec"]
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
        "spec": _read_by_trainer(
            with_defaults(schema_of("finetunejobs")["properties"]["spec"], _merge(written, spec or {}))
        ),
        "world": World(nodes=nodes, processes_per_node=processes, gpus_per_node=gpus, gpu_class="cpu").model_dump(
            by_alias=True
        ),
        "prepared": prepared and prepared.model_dump(by_alias=True),
    }
    return JobFile.parse(json.dumps(document))


def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = schema_of("finetunejobs")["properties"]["spec"]
    return schema


def _read_by_trainer(spec: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.alias or name for name, field in Spec.model_fields.items()}
    return {name: value for name, value in spec.items() if name in names}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; objects are merged, except a method, whose blocks exclude each other."""
    merged = dict(base)
    for key, value in over.items():
        mergeable = key != "method" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if mergeable else value
    return merged


def _uri(source: Path | str) -> str:
    return f"file://{source}" if isinstance(source, Path) else source
