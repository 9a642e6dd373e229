"""The loss curve of a run, out of what it published; `finetune_trainer.artifacts.loss_curve` draws it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def history(file: Path) -> list[tuple[int, float]]:
    """Step and training loss, out of a `training.json` or `manifest.json` of an adapter.

    Raises:
        ValueError: there is no loss in it.
    """
    document: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    entries = document.get("metrics", {}).get("lossHistory", [])
    if not entries:
        raise ValueError(f"{file} has no metrics.lossHistory: name a training.json or manifest.json of an adapter")
    return [(int(entry["step"]), float(entry["loss"])) for entry in entries]
