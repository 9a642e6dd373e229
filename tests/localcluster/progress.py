"""One status line per step: what is going on and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

console = Console(stderr=True)
_current: list[Status] = []  # a terminal has one status line: a step within a step writes to its line


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show `title`, a moving detail and the elapsed time, then one line with the total. Yields the detail's setter."""
    started = time.monotonic()
    outermost = not _current
    status = console.status(title) if outermost else _current[0]

    def show(detail: str) -> None:
        status.update(f"{title}  [dim]{time.monotonic() - started:.0f} s[/]  {escape(detail[:100])}")

    show("")
    if outermost:
        _current.append(status)
        status.start()
    try:
        yield show
    finally:
        if outermost:
            status.stop()
            _current.clear()
    seconds = time.monotonic() - started
    if seconds >= 0.5:  # a step that had nothing to do is not worth a line
        console.print(f"[green]✓[/] {title} [dim]{seconds:.1f} s[/]")
