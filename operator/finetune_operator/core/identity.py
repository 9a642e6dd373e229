"""Run identity: which changes of a spec make a new run.

The hash covers every field but those of `_NOT_TRAINING`, without values that equal the CRD's default: a new version of
the CRD adds defaults to stored objects, and an upgrade must not retrain everything.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_NOT_TRAINING = (("suspend",), ("retries",), ("checkpoint",), ("training", "loggingSteps"))
"""Paths of fields that change how a run is driven, not what comes out of it."""


def defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Tree of default values below an OpenAPI object schema. Pass the schema of `spec` in crds/finetunejobs.yaml."""
    tree: dict[str, Any] = {}
    for name, part in (schema.get("properties") or {}).items():
        if part.get("type") == "object":
            inner = defaults_of(part)
            if inner:
                tree[name] = inner
        elif "default" in part:
            tree[name] = part["default"]
    return tree


def run_hash(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """16 hex digits. The same for two specs exactly when they train the same thing."""
    significant = _without_defaults(_with_one_spelling(_without_paths(spec)), defaults)
    canonical = json.dumps(significant, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


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


def _without_defaults(value: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, item in value.items():
        default = defaults.get(name)
        if isinstance(item, Mapping):
            inner = _without_defaults(item, default if isinstance(default, Mapping) else {})
            # An empty block says something where the schema requires it (method.lora: {}), and nothing where all
            # its fields are defaults.
            if inner or default is None:
                kept[name] = inner
        elif item != default:
            kept[name] = _normal(item)
    return kept


def _normal(value: Any) -> Any:
    """1.0 and 1 are the same number in YAML; the API server keeps what was written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
