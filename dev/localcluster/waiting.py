"""Poll until something is so, with a deadline and the last thing that was seen."""

from __future__ import annotations

import time
from collections.abc import Callable


class GaveUpError(TimeoutError):
    """It did not become so in time."""


def until(what: str, probe: Callable[[], bool], *, seconds: float = 30, pause: float = 0.1) -> None:
    """Call `probe` until it is true. A probe may raise to end the wait at once."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise GaveUpError(f"gave up after {seconds:g} s: {what}")
        time.sleep(pause)
