"""One process at a time: tests, the demo and a person at the terminal may all call `up`.

The kernel frees the lock when its holder ends, in whatever way: a lock is never stale, and the file may stay.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dev.localcluster.console import step


class Lock:
    """A file lock that its holder may take again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = threading.RLock()
        self._depth = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._thread:
            if self._depth:
                yield
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+") as file:
                self._take(file)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def _take(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"wait for {holder(file)}, which holds {self.path}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()


def holder(file: IO[str]) -> str:
    """`process 12 (python -m dev.localcluster up)`, as far as it can be seen."""
    file.seek(0)
    pid = file.read().strip()
    try:
        words = Path(f"/proc/{int(pid)}/cmdline").read_text().split("\0")
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} ({' '.join(words).strip()[:80]})"
