"""Signs of life of this process, for whoever watches it: without them a hang would look like a long step.

A rank beats at each micro-batch, evaluation batch, generated token, transferred block and loading stage, by a few
machine instructions: the counter lives in a file that both sides map. `watched` reads it in another process, which
needs neither torch nor this process's cooperation. How long a silence may be depends on the stage (`limits`).
"""

import mmap
import os
import statistics
import struct
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

ENV_STEP_SECONDS = "FINETUNE_HANG_STEP_SECONDS"
"""The shortest silence between two steps that is a hang; 20 times the median step when that is longer."""
ENV_STAGE_SECONDS = "FINETUNE_HANG_STAGE_SECONDS"
"""Of every other stage: loading, the first step with its compilation, evaluating, saving, publishing."""

_STEPS = 50
_MEDIANS = 20.0
_FORMAT = struct.Struct("<QQdq40s")
"""Beats, blocks transferred, seconds of silence allowed, step, stage."""


@dataclass(frozen=True)
class Sign:
    """What a rank last said of itself."""

    beats: int
    moved: int
    """Blocks transferred from or to the storage."""
    limit_seconds: float
    step: int
    stage: str


def stage_seconds() -> float:
    return float(os.environ.get(ENV_STAGE_SECONDS, "1800"))


def step_seconds() -> float:
    return float(os.environ.get(ENV_STEP_SECONDS, "300"))


class Heart:
    """The writing side. Its file is read while it is written: a reader that meets half a change looks again."""

    def __init__(self, file: Path | None) -> None:
        self._map: mmap.mmap | bytearray = bytearray(_FORMAT.size) if file is None else _mapped(file)
        self._beats, self._moved, self._step = 0, 0, 0
        self._stage, self._limit = "starting", stage_seconds()
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._step_ended: float | None = None
        self._write()

    def beat(self) -> None:
        self._beats += 1
        self._write()

    def move(self) -> None:
        self._moved += 1
        self.beat()

    @property
    def moved(self) -> int:
        return self._moved

    def enter(self, stage: str) -> None:
        """What follows has the patience of a stage, unless it is training whose steps are known."""
        self._stage, self._step_ended = stage, None
        self._limit = self._of_steps() if stage == "training" and self._steps else stage_seconds()
        self.beat()

    def step(self, number: int, now: float | None = None) -> None:
        """A step is done: from the second in a row on, silence is measured by the steps before."""
        now = time.monotonic() if now is None else now
        if self._step_ended is not None:
            self._steps.append(now - self._step_ended)
        self._step_ended, self._step, self._stage = now, number, "training"
        if self._steps:
            self._limit = self._of_steps()
        self.beat()

    def _of_steps(self) -> float:
        return max(step_seconds(), _MEDIANS * statistics.median(self._steps))

    def _write(self) -> None:
        stage = self._stage.encode()[:40]
        _FORMAT.pack_into(self._map, 0, self._beats, self._moved, self._limit, self._step, stage)


_heart = Heart(None)


def install(folder: Path, local_rank: int) -> None:
    """From here on this process's signs of life can be seen in `folder`."""
    global _heart  # a process has one heart; whatever moves bytes or batches beats it
    _heart = Heart(file_of(folder, local_rank))


def beat() -> None:
    _heart.beat()


def move() -> None:
    """A block of bytes went from or to the storage."""
    _heart.move()


def moved() -> int:
    return _heart.moved


def enter(stage: str) -> None:
    _heart.enter(stage)


def step(number: int) -> None:
    _heart.step(number)


# --- the reading side ------------------------------------------------------------------------------------------------
def file_of(folder: Path, local_rank: int) -> Path:
    return folder / f"heartbeat-{local_rank}"


def read(folder: Path, local_rank: int) -> Sign | None:
    """None before the rank has begun to say anything."""
    try:
        data = file_of(folder, local_rank).read_bytes()
        beats, moved, limit, step, stage = _FORMAT.unpack_from(data)
    except (OSError, struct.error):
        return None
    return Sign(beats, moved, limit, step, stage.rstrip(b"\0").decode(errors="replace"))


def _mapped(file: Path) -> mmap.mmap:
    with file.open("w+b") as opened:
        opened.truncate(_FORMAT.size)
        return mmap.mmap(opened.fileno(), _FORMAT.size)
