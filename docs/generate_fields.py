"""Write docs/fields.md: every field of both CRDs, out of crds/.

`python -m docs.generate_fields`; a test fails when the page is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fields.md"
Schema = dict[str, Any]

INTRODUCTION = """\
# Fields

Generated from [crds/](../crds) by `python -m docs.generate_fields`; `kubectl explain finetunejob.spec` says the same.
Examples: [examples/](../examples/README.md).

A field that is not listed does not exist: an unknown one is refused at `kubectl apply`. A change of `spec` starts a new
numbered run, except for `suspend`, `retries`, `checkpoint` and `training.loggingSteps`, which change how a run is
driven, not its result. To run again without a change, set the annotation
`finetune.dev/restartedAt`.
"""


def render() -> str:
    parts = [INTRODUCTION]
    for name in ("finetunejobs", "gpuclasses"):
        crd = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
        [version] = crd["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        kind = crd["spec"]["names"]["kind"]
        parts.append(f"\n# {kind}\n{_plain(schema['description'])}\n\n")
        parts += [_refusals(schema, "metadata"), *_sections(schema["properties"]["spec"], "spec")]
        status = schema["properties"]["status"]
        parts.append(f"\n## status\n{status['description']}\n\n")
        parts.append(_table(_flat(status, "")))
    return "".join(parts)


def _sections(spec: Schema, path: str) -> Iterator[str]:
    """One for the loose fields of the spec, one for each of its blocks."""
    loose = {name: child for name, child in spec["properties"].items() if not _is_block(child)}
    yield f"\n## {path}\n{_plain(spec['description'])}\n\n"
    yield _refusals(spec, path)
    for name, child in loose.items():
        yield from (_refusals(node, where) for where, node in _objects(child, f"{path}.{name}"))
    if loose:
        yield _table(_flat({**spec, "properties": loose}, ""))
    for name, child in spec["properties"].items():
        if _is_block(child):
            required = "Required. " if name in spec.get("required", []) else ""
            yield f"\n## {path}.{name}\n{required}{_plain(child['description'])}\n\n"
            yield from (_refusals(node, where) for where, node in _objects(child, f"{path}.{name}"))
            yield _table(_flat(child, ""))


def _is_block(schema: Schema) -> bool:
    return schema.get("type") == "object"


def _flat(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below an object, by its dotted path; `[]` stands for an item of a list."""
    for name, child, required in _rows(schema, schema.get("properties", {}), prefix):
        inner, suffix = (child["items"], "[]") if child.get("type") == "array" else (child, "")
        if inner.get("properties"):
            if child.get("description"):
                yield name, child, required
            yield from _flat(inner, f"{name}{suffix}.")
        else:
            yield name, child, required


def _rows(schema: Schema, fields: dict[str, Schema], prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, child in fields.items():
        yield f"{prefix}{name}", child, name in schema.get("required", [])


def _objects(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}")
    if "items" in schema:
        yield from _objects(schema["items"], f"{path}[]")


def _table(rows: Iterator[tuple[str, Schema, bool]]) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, schema, required in rows:
        default = "**required**" if required else _code(schema.get("default"))
        meaning = _plain(schema.get("description", ""))
        lines.append(f"| `{name}` | {_type(schema)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`".replace('`"', "`").replace('"`', "`")


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}s"
    return str(schema["type"]) + _range(schema)


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'>' if schema.get('exclusiveMinimum') else '≥'} {low}"
    return f" {low} … {high}" + (" (not 0)" if schema.get("exclusiveMinimum") else "")


def _refusals(schema: Schema, path: str) -> str:
    rules = schema.get("x-kubernetes-validations", [])
    return "".join(f"- Refused at apply (`{path}`): {_plain(rule['message'])}.\n" for rule in rules) + "\n" * bool(
        rules
    )


def _plain(text: str) -> str:
    """Without what Markdown would take for HTML or a column."""
    return text.replace("<", "\\<").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render())
