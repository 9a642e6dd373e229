"""The loss curve of a run as an SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
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


def render(points: Sequence[tuple[int, float]], *, title: str) -> str:
    """A line over the steps; the same points give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    steps, losses = zip(*points, strict=True)
    with mpl.rc_context({"svg.hashsalt": "finetune-operator", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
        axes.plot(steps, losses, color="#3b6ea8", linewidth=1.8)
        axes.set(title=title, xlabel="step", ylabel="training loss (nats per token)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return output.getvalue()
