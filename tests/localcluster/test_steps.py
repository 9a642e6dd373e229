"""Steps side by side and within one another each get their line, and leave the terminal as it was."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from rich.console import Console

from dev.localcluster import console
from dev.localcluster.waiting import until

pytestmark = pytest.mark.races


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    output = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=output, force_terminal=True, width=200, no_color=True))
    monkeypatch.setattr(console, "_WORTH_A_LINE_SECONDS", 0)
    return output


def finished(terminal: io.StringIO) -> list[str]:
    """`✓ title` and `✗ title`, in the order in which they ended."""
    return re.findall(r"[✓✗] \w+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()))


def test_steps_side_by_side_share_the_line(terminal: io.StringIO) -> None:
    seen = Event()

    def run(title: str) -> None:
        with console.step(title) as show:
            show("at work")
            assert seen.wait(timeout=300)

    def both_are_shown() -> bool:
        return bool(re.search(r"compiler.*at work.*·.*image.*at work", terminal.getvalue()))

    with ThreadPoolExecutor() as pool:
        ended = pool.map(run, ["compiler", "image"])
        until("one line shows both", both_are_shown, seconds=300)
        seen.set()
        list(ended)
    assert sorted(finished(terminal)) == ["✓ compiler", "✓ image"]


def test_a_step_within_a_step_ends_first_and_a_failed_one_ends_too(terminal: io.StringIO) -> None:
    with pytest.raises(ValueError, match="broken"), console.step("outer"), console.step("inner"):
        raise ValueError("broken")
    assert finished(terminal) == ["✗ inner", "✗ outer"]
    shown, hidden = (terminal.getvalue().rfind(code) for code in ("\x1b[?25h", "\x1b[?25l"))
    assert shown > hidden, "the cursor is back"
