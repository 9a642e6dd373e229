"""Run the demo: `python -m dev.demo [--record FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dev.demo import recorder, story
from dev.demo.commands import AGAIN, DOWN
from dev.kit import entrypoint

CURE = f"""Once that is put right, continue where it stopped: what is built and started already is kept.
  {AGAIN}
  make status   # what of the local cluster runs"""
INTERRUPTED = f"""Stopped. What was started keeps running, a training included.
  {AGAIN}
  {DOWN}"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description="From nothing to a verified adapter.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what is shown to an asciicast as well")
    record: Path | None = parser.parse_args().record
    if record:
        return recorder.record([sys.executable, "-m", "dev.demo"], record, title="make demo")
    console = Console(width=None if sys.stdout.isatty() else 110)
    return entrypoint.exit_code(lambda: story.tell(console), console, cure=CURE, interrupted=INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
