"""Run a program to its end and say what it wrote when it failed."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class CommandError(RuntimeError):
    """A program ended with an error; the message carries the end of its output."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"`{shlex.join(argv)}` ended with {code}:\n{output.strip()[-4000:]}")
        self.code = code
        self.output = output


def output_of(
    *argv: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None, timeout: float = 600
) -> str:
    """Its standard output; CommandError unless it ends with 0."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=stdin, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandError(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(*argv: str | Path, timeout: float = 60) -> bool:
    """Whether it can be run and ends with 0."""
    try:
        output_of(*argv, timeout=timeout)
    except (CommandError, OSError, subprocess.TimeoutExpired):
        return False
    return True
