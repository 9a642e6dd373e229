"""Reports every few seconds how far a large transfer is, and says how long nothing has moved."""

import threading
import time

from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.reporting import Report

_LARGE = 64 << 20
"""Bytes; smaller transfers are not reported."""


class TransferMeter:
    """Called by boto3 from its threads, with the bytes that were moved since the last call."""

    def __init__(self, what: str, total: int, report: Report, every_seconds: float = 5.0) -> None:
        self._what, self._total, self._report, self._every = what, total, report, every_seconds
        self._lock = threading.Lock()
        self._done = 0
        self._start = self._last = time.monotonic()
        self.moved_at: float | None = None
        """When bytes moved last, by the monotonic clock."""

    def restart(self) -> None:
        """A failed transfer begins with its first byte again."""
        with self._lock:
            self._done = 0

    def __call__(self, count: int) -> None:
        heartbeat.move()
        with self._lock:
            self._done += count
            now = self.moved_at = time.monotonic()
            if self._total < _LARGE or now - self._last < self._every:
                return
            self._last = now
            done, rate = self._done, self._done / (now - self._start)
        self._report(
            f"{self._what}: {done / 2**20:,.0f} of {self._total / 2**20:,.0f} MiB ({100 * done / self._total:.0f} %), "
            f"{rate / 2**20:,.1f} MiB/s"
        )
