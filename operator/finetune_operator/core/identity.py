"""Run identity: which changes of a spec make a new run (docs/decisions/0005).

`status.runHash` is `v2:<16 hex digits>` over the values that are *stored* in the trained fields, explicit or defaulted
alike: a default was written into the object when it was created, so a CRD with another default changes nothing in it.
Fields that came after 0.1.0 are left out while they have their default (core/defaults.py): they trained nothing else.

0.1.0 left out the values that equalled the default of its CRD (rule 1, a hash without prefix). Such a hash is compared
by that rule, with the defaults of 0.1.0 as they are frozen here.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from finetune_operator.core.defaults import LATER_DEFAULTS, Defaults, without_defaults

_PREFIX = "v2:"
_NOT_TRAINING = (("suspend",), ("retries",), ("checkpoint",), ("training", "loggingSteps"))
"""Paths of fields that change how a run is driven, not what comes out of it."""


def run_hash(spec: Mapping[str, Any], later: Defaults = LATER_DEFAULTS) -> str:
    """The same for two stored specs exactly when they train the same thing.

    Args:
        later: defaults of the fields added after 0.1.0.
    """
    return f"{_PREFIX}{_digest(_trained(spec, later))}"


def is_same_run(recorded: str, spec: Mapping[str, Any], later: Defaults = LATER_DEFAULTS) -> bool:
    """Does this spec train what `recorded`, a status.runHash of any version, stands for?"""
    if is_current_rule(recorded):
        return recorded == run_hash(spec, later)
    return recorded == first_rule_hash(spec, later)


def is_current_rule(recorded: str) -> bool:
    return recorded.startswith(_PREFIX)


def _digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _trained(spec: Mapping[str, Any], later: Defaults) -> dict[str, Any]:
    known_to_first = without_defaults(spec, later)
    return _normal_block(_with_one_spelling(_without_paths(known_to_first)))


def _without_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in spec.items() if (name,) not in _NOT_TRAINING}
    for block, *rest in (path for path in _NOT_TRAINING if len(path) > 1):
        if isinstance(kept.get(block), Mapping):
            kept[block] = {name: value for name, value in kept[block].items() if name not in rest}
    return kept


def _with_one_spelling(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`cpu: 8` and `cpu: "8"` are the same quantity; the API server keeps what was written."""
    resources = spec.get("resources")
    if not isinstance(resources, Mapping) or "cpu" not in resources:
        return dict(spec)
    return {**spec, "resources": {**resources, "cpu": str(resources["cpu"])}}


def _normal_block(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _normal(item) for name, item in block.items()}


def _normal(value: Any) -> Any:
    """1.0 and 1 are the same number in YAML; the API server keeps what was written."""
    if isinstance(value, Mapping):
        return _normal_block(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- rule 1, of 0.1.0 ----------------------------------------------------------------------------------------------
_DEFAULTS_OF_0_1_0: Mapping[str, Any] = {
    "model": {"trustRemoteCode": False},
    "dataset": {
        "splitFraction": 0.1,
        "format": "auto",
        "template": "auto",
        "trainOnPrompt": False,
        "maskHistory": False,
    },
    "method": {
        "lora": {"rank": 16, "alpha": 32, "dropout": 0, "targets": ["all-linear"]},
        "quantization": {"bits": 4, "doubleQuant": True},
    },
    "stage": "sft",
    "training": {
        "epochs": 3,
        "perDeviceBatchSize": 4,
        "gradientAccumulationSteps": 4,
        "scheduler": "cosine",
        "warmupRatio": 0.03,
        "weightDecay": 0,
        "maxGradNorm": 1,
        "precision": "auto",
        "maxLength": 1024,
        "truncate": False,
        "groupByLength": True,
        "gradientCheckpointing": True,
        "attention": "auto",
        "compile": False,
        "seed": 42,
        "loggingSteps": 10,
    },
    "resources": {"nodes": 1, "cpu": "1", "memory": "4Gi"},
    "suspend": False,
    "retries": 3,
    "checkpoint": {"everySteps": 100, "keep": 2},
    "evaluation": {"sampleAnswers": 2, "maxNewTokens": 64},
    "storage": {"region": "us-east-1"},
}
"""Frozen: what the hashes of 0.1.0 were made with, whatever the CRD says today."""


def first_rule_hash(spec: Mapping[str, Any], later: Defaults = LATER_DEFAULTS) -> str:
    """As 0.1.0 made it."""
    return _digest(_without_values(_trained(spec, later), _DEFAULTS_OF_0_1_0))


def _without_values(value: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, item in value.items():
        default = defaults.get(name)
        if isinstance(item, Mapping):
            inner = _without_values(item, default if isinstance(default, Mapping) else {})
            # An empty block says something where the schema requires it (method.lora: {}), and nothing where all
            # its fields are defaults.
            if inner or default is None:
                kept[name] = inner
        elif item != default:
            kept[name] = item
    return kept
