"""One status line for all steps that are under way: what is going on and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.markup import escape
from rich.status import Status

console = Console(stderr=True)
_WIDTH = 110
_WORTH_A_LINE_SECONDS = 0.5  # what is shorter had nothing to do


class _Line:
    """The terminal's one status line, shared by steps within steps and by steps side by side."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._texts: dict[object, str] = {}
        self._status: Status | None = None

    def show(self, key: object, text: str) -> None:
        with self._lock:
            self._texts[key] = text
            self._draw()

    def drop(self, key: object) -> None:
        with self._lock:
            self._texts.pop(key, None)
            self._draw()

    def _draw(self) -> None:
        if not self._texts:
            if self._status:
                self._status.stop()
            self._status = None
            return
        share = _WIDTH // len(self._texts)
        text = escape("  ·  ".join(each[:share] for each in self._texts.values()))
        if self._status:
            self._status.update(text)
        else:
            self._status = console.status(text)
            self._status.start()


_line = _Line()


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show `title`, a moving detail and the elapsed time, then one line with the total. Yields the detail's setter."""
    started, key = time.monotonic(), object()

    def show(detail: str) -> None:
        _line.show(key, f"{title} {time.monotonic() - started:.0f} s  {detail}")

    show("")
    sign = "[red]✗[/]"
    try:
        yield show
        sign = "[green]✓[/]"
    finally:
        _line.drop(key)
        seconds = time.monotonic() - started
        if seconds >= _WORTH_A_LINE_SECONDS:
            console.print(f"{sign} {title} [dim]{seconds:.1f} s[/]", soft_wrap=True)
