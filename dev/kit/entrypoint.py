"""How a command for developers ends: what a person can cure is printed without a traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from dev.localcluster.commands import CommandError
from dev.localcluster.daemons import DaemonError
from dev.localcluster.errors import CurableError
from dev.localcluster.waiting import GaveUpError

FAILED, INTERRUPTED = 1, 130
_SAYS_WHAT_FAILED = (CommandError, DaemonError, GaveUpError, subprocess.SubprocessError)
"""Their message names the program and carries the end of its output."""


def exit_code(main: Callable[[], int], console: Console, *, cure: str, interrupted: str) -> int:
    """The exit code of `main`; 1 for what a person can cure, 130 for Ctrl-C. A bug keeps its traceback.

    Args:
        cure: what to do when a program failed that says no more than its own output.
        interrupted: what remains after Ctrl-C, how to continue and how to clean up.
    """
    try:
        return main()
    except CurableError as error:
        _print(console, error.what, error.cure)
        return FAILED
    except _SAYS_WHAT_FAILED as error:
        _print(console, str(error), cure)
        return FAILED
    except KeyboardInterrupt:
        console.print(f"\n{escape(interrupted)}", highlight=False, soft_wrap=True)
        return INTERRUPTED


def _print(console: Console, what: str, cure: str) -> None:
    console.print(f"[red]✗[/] {escape(what)}", highlight=False, soft_wrap=True)
    console.print(escape(cure), highlight=False, soft_wrap=True)
