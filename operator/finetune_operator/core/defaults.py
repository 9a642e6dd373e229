"""Defaults of the fields of FineTuneJob.spec that were added after 0.1.0 (docs/decisions/0004).

The fields of 0.1.0 have their defaults in the schema. A later one has none there: a schema default appears in every
stored object at once, and an operator that is older than the CRD would find a field that it does not know in all of
them. Its default is the value here, the one that reproduces what happened before there was the field: absent and
written out mean the same, and neither makes a new run (core/identity.py). Its description in the CRD says
"Default: <value>."
"""

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
Defaults = Mapping[Path, Any]

LATER_DEFAULTS: Defaults = {}
"""Path below spec → value. A block of its own is listed too, as {}: `("scheduling",): {}`."""


def with_defaults(spec: Mapping[str, Any], defaults: Defaults = LATER_DEFAULTS) -> dict[str, Any]:
    """As the API server fills in: a field of a block that is absent stays absent."""
    filled = dict(spec)
    for path in sorted(defaults, key=len):
        filled = _filled(filled, path, defaults[path])
    return filled


def without_defaults(spec: Mapping[str, Any], defaults: Defaults = LATER_DEFAULTS) -> dict[str, Any]:
    """Later fields taken out while they have their default: what an operator without them would have stored."""
    bare = dict(spec)
    for path in sorted(defaults, key=len, reverse=True):
        bare = _bare(bare, path, defaults[path])
    return bare


def _filled(block: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    name, *rest = path
    if not rest:
        return block if name in block else {**block, name: value}
    inner = block.get(name)
    return {**block, name: _filled(dict(inner), tuple(rest), value)} if isinstance(inner, Mapping) else block


def _bare(block: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    name, *rest = path
    if not rest:
        is_default = name in block and block[name] == value
        return {other: item for other, item in block.items() if other != name} if is_default else block
    inner = block.get(name)
    return {**block, name: _bare(dict(inner), tuple(rest), value)} if isinstance(inner, Mapping) else block
