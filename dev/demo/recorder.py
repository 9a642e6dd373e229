"""Writes what a command shows, line by line with its time, as an asciicast (version 2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

COLUMNS, ROWS = 110, 30


def record(argv: Sequence[str], file: Path, *, title: str, clock: Callable[[], float] = time.time) -> int:
    """Run it, show its lines here and keep them in `file`. Returns its exit code.

    The command is asked for colours but for no line that is drawn again: a recording is made of whole lines.
    """
    settled = {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "COLUMNS": str(COLUMNS), "PYTHONUNBUFFERED": "1"}
    started = clock()
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "timestamp": int(started), "title": title}
    with (
        file.open("w", encoding="utf-8") as cast,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **settled}, text=True
        ) as process,
    ):
        assert process.stdout is not None
        print(json.dumps(header), file=cast, flush=True)
        # Ctrl-C reaches the command too: it says how to continue, and its end is read here.
        lines = iter(process.stdout.readline, "")
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                for line in lines:
                    sys.stdout.write(line)
                    sys.stdout.flush()
                    event = (round(clock() - started, 3), "o", line.replace("\n", "\r\n"))
                    print(json.dumps(event, ensure_ascii=False), file=cast, flush=True)
    return process.returncode
