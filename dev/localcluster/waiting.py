"""The one waiter: poll until something is so, give up when nothing moves, and say what was seen last."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")
_LOOKS_PER_LIMIT = 20


class GaveUpError(TimeoutError):
    """It did not become so in time."""


def until(
    what: str,
    probe: Callable[[], T | None],
    *,
    seconds: float = 30,
    pause: float = 0.1,
    progress: Callable[[], Hashable] = lambda: None,
    explain: Callable[[], str] = str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The first answer of `probe` that is true. A probe may raise to end the wait at once.

    Args:
        what: stands in the error, after "gave up after 30 s: ".
        seconds: the limit, counted from the start or from the last time that `progress` was seen to change.
        progress: something that differs whenever it moves. Looked at twenty times per limit: it may cost requests.
        explain: what a person would look at next; added to the error.

    Raises:
        GaveUpError: nothing has changed for `seconds`.
    """
    seen, moved_at = progress(), clock()
    looked_at = moved_at
    while not (found := probe()):
        now = clock()
        is_over = now - moved_at > seconds
        if is_over or now - looked_at >= seconds / _LOOKS_PER_LIMIT:
            looked_at = now
            if (current := progress()) != seen:
                seen, moved_at = current, now
            elif is_over:
                raise GaveUpError(f"gave up after {seconds:g} s: {what}\n{explain()}".rstrip())
        sleep(pause)
    return found
