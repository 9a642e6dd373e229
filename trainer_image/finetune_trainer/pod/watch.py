"""Finds a node that stands still: no rank of it shows a sign of life for as long as its stage may be silent.

One rank that hangs stops all others in their next collective, and one that waits for another's download is no hang: so
the node is judged as a whole, and the rank that fell silent first is named. Reads files of /proc and of the ranks
(rank/heartbeat.py); needs nothing of them while it watches.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.pod import outcome
from finetune_trainer.rank import heartbeat

_STACKS_SECONDS = 10.0
_READS = {"starting", "downloading", "loading"}
"""Stages in which a library reads files for us, without a sign of life in between."""


@dataclass(frozen=True)
class Hang:
    local_rank: int
    stage: str
    step: int
    """The last that was done."""
    silent_seconds: float
    limit_seconds: float

    def describe(self, rank: int) -> str:
        done = f" after step {self.step}" if self.step else ""
        return (
            f"rank {rank} showed no sign of life for {self.silent_seconds:.0f} s while {self.stage}{done} (limit "
            f"{self.limit_seconds:.0f} s), and no other rank of its node did: they were ended. The stacks of all ranks "
            "are in the pod's log; the next attempt resumes from the newest checkpoint"
        )


@dataclass
class _Pulse:
    """Of one rank: what it last showed, and when that was new."""

    shown: object
    since: float
    sign: heartbeat.Sign


class Watch:
    """Looks at the ranks of one node.

    Args:
        folder: where they leave their signs.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._pulses: dict[int, _Pulse] = {}

    @property
    def tick_seconds(self) -> float:
        """How often to look."""
        return min(10.0, heartbeat.stage_seconds() / 4, heartbeat.step_seconds() / 4)

    def moved(self) -> int:
        """Blocks that all ranks have transferred."""
        return sum(pulse.sign.moved for pulse in self._pulses.values())

    def look(self, running: Mapping[int, int]) -> Hang | None:
        """Args:
        running: from process to local rank.
        """
        now = self._clock()
        pulses = {local_rank: self._take(pid, local_rank, now) for pid, local_rank in running.items()}
        if not pulses or any(now - pulse.since <= pulse.sign.limit_seconds for pulse in pulses.values()):
            return None
        local_rank, pulse = min(pulses.items(), key=lambda item: item[1].since)
        sign = pulse.sign
        return Hang(local_rank, sign.stage, sign.step, now - pulse.since, sign.limit_seconds)

    def _take(self, pid: int, local_rank: int, now: float) -> _Pulse:
        silent = heartbeat.Sign(0, 0, heartbeat.stage_seconds(), 0, "starting")
        sign = heartbeat.read(self._folder, local_rank) or silent
        shown = (sign.beats, _bytes_read(pid) if sign.stage in _READS else 0)
        pulse = self._pulses.get(local_rank)
        if pulse is None or pulse.shown != shown:
            pulse = self._pulses[local_rank] = _Pulse(shown, now, sign)
        return pulse


def stacks(folder: Path, running: Mapping[int, int]) -> dict[int, str]:
    """Of all threads of each rank, by local rank: where it stands. Empty for one that cannot say it any more."""
    files = {local_rank: outcome.stacks_file(folder, local_rank) for local_rank in running.values()}
    asked = [(pid, files[local_rank]) for pid, local_rank in running.items() if files[local_rank].exists()]
    for pid, _ in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, outcome.STACKS_SIGNAL)
    _await_answers([file for _, file in asked])
    return {rank: file.read_text(errors="replace") if file.exists() else "" for rank, file in files.items()}


def _await_answers(files: list[Path]) -> None:
    """Until each has something in it and none grows any more. A process that is stopped never answers."""
    ends, before = time.monotonic() + _STACKS_SECONDS, [0]
    while time.monotonic() < ends:
        sizes = [file.stat().st_size for file in files]
        if all(sizes) and sizes == before:
            return
        before = sizes
        time.sleep(0.1)


def _bytes_read(pid: int) -> int:
    """By system calls and by pages that were mapped."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts.get("rchar", 0)) + int(counts.get("read_bytes", 0))
