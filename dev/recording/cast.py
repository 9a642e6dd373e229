"""Reads an asciicast (version 2) of whole lines, and gives it a pace that can be watched."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")  # all of CSI but `m`, the colours


@dataclass(frozen=True)
class Line:
    """A line of the terminal, with its escape codes, and when it appeared."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Cast:
    """What was shown. `columns` is the width that it was shown at."""

    title: str
    columns: int
    lines: tuple[Line, ...]

    @property
    def seconds(self) -> float:
        return self.lines[-1].seconds if self.lines else 0.0


def read(file: Path) -> Cast:
    """The lines of a recording.

    Raises:
        ValueError: the file is no asciicast of version 2.
    """
    header, *events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not isinstance(header, dict) or header.get("version") != 2:
        raise ValueError(f"{file} is no asciicast of version 2: its first line is {json.dumps(header)[:80]}")
    lines, rest = [], ""
    for seconds, kind, text in events:
        *whole, rest = (rest + text if kind == "o" else rest).split("\n")
        lines += [Line(seconds, shown) for line in whole if (shown := _shown(line)) is not None]
    return Cast(header.get("title", ""), header["width"], tuple(lines))


def _shown(line: str) -> str | None:
    """Without the codes that move or hide the cursor; None when it was nothing else."""
    text = _CURSOR.sub("", line.rstrip("\r"))
    return text if text or not line.strip() else None


def paced(times: Sequence[float], *, longest_pause: float, total: float) -> list[float]:
    """The same moments, no pause longer than `longest_pause` and all of it within `total` seconds."""
    moments, last, now = [], 0.0, 0.0
    for time in times:
        now += min(max(time - last, 0.0), longest_pause)
        last = time
        moments.append(now)
    scale = min(1.0, total / now) if now else 1.0
    return [round(moment * scale, 2) for moment in moments]
