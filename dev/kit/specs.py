"""FineTuneJobs as tests and demo write them: the smallest valid one, and what differs from it. Pure data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""
Changes = Mapping[str, Any]
"""Dotted path → value; a number is an index of a list, None removes the field."""

SECRET = "s3-credentials"
TINY_MODEL = "models/tiny-qwen2"
TINY_ROWS = "datasets/tiny/train.jsonl"

_MINIMAL: Object = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "faq"},
    "spec": {
        "model": {"source": "s3://models/smol"},
        "dataset": {"train": [{"source": "s3://data/faq.jsonl"}]},
        "method": {"type": "lora", "lora": {}},
        "training": {"learningRate": 0.0002},
        "resources": {"gpuClass": "cpu"},
        "output": {"uri": "s3://adapters/faq"},
        "storage": {"secretName": SECRET},
    },
}
_TINY: Changes = {
    "method.lora.rank": 8,
    "training": {
        "learningRate": 0.003,
        "maxSteps": 12,
        "epochs": 100,
        "perDeviceBatchSize": 4,
        "gradientAccumulationSteps": 1,
        "gradientCheckpointing": False,
        "precision": "fp32",
        "loggingSteps": 1,
    },
    "resources.cpu": "200m",
    "resources.memory": "3Gi",
    "checkpoint.everySteps": 5,
    "evaluation": {"sampleAnswers": 1, "maxNewTokens": 8},
}


def minimal_job(name: str = "faq", changes: Changes | None = None) -> Object:
    """The required fields and nothing else; `changes` are paths below spec."""
    job = changed(_MINIMAL, {"metadata.name": name})
    apply_changes(job["spec"], changes or {})
    return job


def tiny_job(name: str, *, bucket: str, endpoint: str, **changes: Any) -> Object:
    """LoRA on the tiny model on CPU: seconds of training.

    Args:
        changes: paths below spec with `__` for the dot, e.g. `training__maxSteps=200`.
    """
    where: Changes = {
        "model.source": f"s3://{bucket}/{TINY_MODEL}",
        "dataset.train.0.source": f"s3://{bucket}/{TINY_ROWS}",
        "output.uri": f"s3://{bucket}/results/{name}",
        "storage.endpoint": endpoint,
    }
    return minimal_job(name, {**_TINY, **where, **dotted(changes)})


def dotted(keywords: Mapping[str, Any]) -> Object:
    """Keyword arguments as paths: `training__maxSteps` means `training.maxSteps`."""
    return {keyword.replace("__", "."): value for keyword, value in keywords.items()}


def changed(base: Object, changes: Changes) -> Object:
    """A copy of `base` in which each path has its new value."""
    result = copy.deepcopy(base)
    apply_changes(result, changes)
    return result


def apply_changes(target: Object, changes: Changes) -> None:
    """Give each path its new value, in place; None removes the field."""
    for path, value in changes.items():
        if value is None:
            container, key = _place(target, path)
            container.pop(key, None)
        else:
            set_path(target, path, value)


def set_path(target: Object, path: str, value: Any) -> None:
    """Set `a.0.b` to a copy of `value`, creating the objects on the way. None is a value like any other."""
    container, key = _place(target, path)
    container[key] = copy.deepcopy(value)


def _place(target: Object, path: str) -> tuple[Any, Any]:
    """The object or list that holds the path's last part, and the key or index there."""
    *parents, last = path.split(".")
    container: Any = target
    for part in parents:
        container = container[int(part)] if isinstance(container, list) else container.setdefault(part, {})
    return container, int(last) if isinstance(container, list) else last
