"""As much of a structural schema as the fake needs: defaults filled in, unknown fields found."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_CRDS = Path(__file__).parents[2] / "crds"


@cache
def schema_of(plural: str) -> Mapping[str, Any]:
    """openAPIV3Schema of a CRD of ours."""
    crd = yaml.safe_load((_CRDS / f"{plural}.yaml").read_text())
    schema: Mapping[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    if schema.get("type") == "object" and isinstance(value, Mapping):
        filled = dict(value)
        for name, part in (schema.get("properties") or {}).items():
            if name not in filled and "default" in part:
                filled[name] = deepcopy(part["default"])
            if name in filled:
                filled[name] = with_defaults(part, filled[name])
        return filled
    if schema.get("type") == "array" and isinstance(value, list):
        return [with_defaults(schema["items"], item) for item in value]
    return value


def unknown_fields(schema: Mapping[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Fields that the API server would prune: written again and again, they would never be at rest."""
    if isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        for name, item in value.items():
            if name not in properties:
                yield f"{path}.{name}"
            else:
                yield from unknown_fields(properties[name], item, f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from unknown_fields(schema["items"], item, f"{path}[]")
