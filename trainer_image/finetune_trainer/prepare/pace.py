"""How fast a preparation advances: for the log, and for whoever shows it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.rank.reporting import Report


@dataclass(frozen=True)
class Progress:
    rows: int
    """Conversations that are done."""
    rows_per_second: float
    eta_seconds: int | None
    """None while nothing is known."""


Note = Callable[[Progress], None]


class Pace:
    """
    Args:
        total_bytes: of all files.
        most_rows: after which reading ends, whatever is left of the files.
    """

    def __init__(
        self,
        total_bytes: int,
        most_rows: int | None,
        report: Report,
        note: Note,
        *,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_bytes, self._most_rows = total_bytes, most_rows
        self._report, self._note = report, note
        self._every, self._clock = every_seconds, clock
        self._start = self._last = clock()
        self._bytes = self._rows = 0

    def moved(self, count: int) -> None:
        """So many bytes more were read."""
        self._bytes += count

    def done(self, rows: int) -> None:
        """So many rows more are done."""
        self._rows += rows
        now = self._clock()
        if now - self._last < self._every:
            return
        self._last = now
        progress = self._progress(now - self._start)
        self._note(progress)
        left = "" if progress.eta_seconds is None else f", {progress.eta_seconds:,} s left"
        self._report(f"prepared {progress.rows:,} rows, {progress.rows_per_second:,.0f} rows/s{left}")

    def _progress(self, elapsed: float) -> Progress:
        share = self._bytes / self._total_bytes if self._total_bytes else 0.0
        if self._most_rows:
            share = max(share, self._rows / self._most_rows)
        share = min(share, 1.0)
        left = round(elapsed * (1 - share) / share) if share else None
        return Progress(self._rows, round(self._rows / max(elapsed, 1e-9), 1), left)
