"""Golden files: what a rendering looked like when somebody last read it. `UPDATE_GOLDEN=1` writes them anew."""

import os
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "golden"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def assert_golden(name: str, value: Any) -> None:
    """`value` is JSON-like; kept as YAML for those who read the diff."""
    path = FOLDER / f"{name}.yaml"
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs: read the difference, then UPDATE_GOLDEN=1"
