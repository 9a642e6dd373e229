"""Write the chart's README: the values table out of the comments (`# -- …`) in values.yaml.

`python -m docs.generate_values`; a test fails when the README is out of date.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "finetune-operator"

INTRODUCTION = """\
# finetune-operator

Installs the operator, its CRDs (`FineTuneJob`, `GPUClass`) and the default GPU classes.

```
helm install finetune-operator helm/finetune-operator --namespace finetune-system --create-namespace \\
  --set image.repository=<registry>/finetune-operator --set trainerImage.repository=<registry>/finetune-trainer
```

Upgrades, namespaced mode and the order of an uninstall: [docs/install.md](../../docs/install.md). What the operator may
do and why: [docs/security.md](../../docs/security.md). GPU classes: [docs/gpu-classes.md](../../docs/gpu-classes.md).

`crds/` is a link to the repository's `crds/`: Helm follows it, and a packaged chart contains the files. Uninstalling
leaves the CRDs and every FineTuneJob in place.

## Values
Unknown values are refused (`values.schema.json`).

| value | default | meaning |
|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    key: str
    default: Any
    comment: str


def rows() -> list[Row]:
    """Each value with the comment above it, in the order of the file."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    found: list[Row] = []
    path: list[tuple[int, str]] = []
    comment = ""
    inside: int | None = None  # deeper lines belong to the default of the commented key above them
    for line in text.splitlines():
        if match := re.match(r"\s*# -- (.*)", line):
            comment = match[1]
            continue
        key = re.match(r"(\s*)([A-Za-z]\w*):", line)
        if not key or (inside is not None and len(key[1]) > inside):
            continue
        inside = None
        indent = len(key[1])
        path = [*(part for part in path if part[0] < indent), (indent, key[2])]
        default: Any = values
        for _, name in path:
            default = default[name]
        if comment or not isinstance(default, dict):
            found.append(Row(".".join(name for _, name in path), default, comment))
            inside = indent
        comment = ""
    return found


def render() -> str:
    lines = [f"| `{row.key}` | `{json.dumps(row.default)}` | {row.comment} |\n" for row in rows()]
    return INTRODUCTION + "".join(lines)


if __name__ == "__main__":
    (CHART / "README.md").write_text(render())
