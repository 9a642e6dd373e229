"""Helm 3 or 4: the one on the PATH, else built."""

from __future__ import annotations

import shutil
from pathlib import Path

from dev.localcluster import gobuild
from dev.localcluster.commands import succeeds


def on_path() -> Path | None:
    found = shutil.which("helm")
    return Path(found) if found and succeeds(found, "version", "--short") else None


def ensure(cache: Path) -> Path:
    """The program."""
    return on_path() or gobuild.build(gobuild.HELM, cache) / "helm"
