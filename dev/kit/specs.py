"""FineTuneJobs as tests write them: a small valid one, and what differs."""

from __future__ import annotations

import copy
from typing import Any

from dev.kit.jobs import Object

TINY_MODEL = "models/tiny-qwen2"
TINY_ROWS = "datasets/tiny/train.jsonl"
SECRET = "s3-credentials"


def tiny_job(name: str, *, bucket: str, endpoint: str, **changes: Any) -> Object:
    """LoRA on the tiny model on CPU: seconds of training.

    Args:
        changes: dotted paths below spec with `__` for the dot, e.g. `training__maxSteps=200`.
    """
    job: Object = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": f"s3://{bucket}/{TINY_MODEL}"},
            "dataset": {"train": [{"source": f"s3://{bucket}/{TINY_ROWS}"}]},
            "method": {"type": "lora", "lora": {"rank": 8}},
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
            "resources": {"gpuClass": "cpu", "cpu": "200m", "memory": "3Gi"},
            "output": {"uri": f"s3://{bucket}/results/{name}"},
            "checkpoint": {"everySteps": 5},
            "evaluation": {"sampleAnswers": 1, "maxNewTokens": 8},
            "storage": {"secretName": SECRET, "endpoint": endpoint},
        },
    }
    for path, value in changes.items():
        set_path(job["spec"], path.split("__"), value)
    return job


def set_path(target: Object, path: list[str], value: Any) -> None:
    """Set, or remove by None, `target[a][b]…`."""
    *parents, last = path
    for key in parents:
        target = target.setdefault(key, {})
    if value is None:
        target.pop(last, None)
    else:
        target[last] = copy.deepcopy(value)
