"""How fast rows are prepared, and in how much memory: chat rows of about 135 tokens, SmolLM2's tokenizer, all checks.

Speed is rows over the seconds from the first row to the last file on disk; what is done before (model, tokenizer) does
not depend on the rows. Memory is the resident set of this process and its workers together, sampled, and what of it
came on top of what was there before the first row. `python -m tests.benchmarks.bench_prepare` writes
`build/bench/prepare.json` and prints a table.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from dev.kit import entrypoint
from dev.kit.sample_data import smollm2_gguf
from dev.localcluster.console import console, step
from finetune_trainer.prepare import preparation
from finetune_trainer.rank import libraries
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage

TEXT = (
    "the building permit takes ten weeks and an architect draws plans for a complex case of roof work that may not "
    "become higher than allowed by municipality rules please ask first before you start with any change to facade"
)


@dataclass(frozen=True)
class Outcome:
    rows: int
    file: str
    cpus: int
    rows_per_second: int
    seconds: float
    cpu_seconds: float
    """Of all processes: what counts where other work shares the cores."""
    peak_gib: float
    """Of all processes."""
    added_gib: float
    """On top of model classes and tokenizer."""


class Memory:
    """The resident set of this process and its children, sampled until it is stopped."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, resident())


def resident() -> int:
    total, this = 0, psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def conversations(count: int) -> Iterator[dict[str, Any]]:
    numbers, words = random.Random(1), TEXT.split()

    def sentence(least: int, most: int) -> str:
        return " ".join(numbers.choices(words, k=numbers.randint(least, most))).capitalize() + "."

    for _ in range(count):
        turns = [("user", sentence(8, 22)), ("assistant", sentence(18, 48))] * 2
        messages = [{"role": role, "content": text} for role, text in turns]
        yield {"messages": [{"role": "system", "content": "You are a helpful assistant."}, *messages]}


def write(kind: str, count: int, path: Path) -> None:
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(conversations(count))), path)
        return
    with path.open("w") as file:
        before, between, after = ("[", ",\n", "]") if kind == "json" else ("", "\n", "\n")
        file.write(before)
        for index, row in enumerate(conversations(count)):
            file.write((between if index else "") + json.dumps(row))
        file.write(after)


def measure(kind: str, rows: int, cpus: int, folder: Path) -> Outcome:
    data = folder / f"{rows}.{kind}"
    if not data.exists():
        with step(f"{rows:,} rows written as {kind}"):
            write(kind, rows, data)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
    job = make_job({"dataset": {"splitFraction": 0.05}}, model=smollm2_gguf(), train=data)
    begin: list[tuple[float, float, int]] = []

    with step(f"{rows:,} rows of {kind} prepared on {cpus} CPUs") as show, Memory() as memory:

        def report(line: str) -> None:
            if "format messages" in line:
                begin.append((time.perf_counter(), cpu_seconds(), resident()))
            show(line)

        preparation.run(job, FolderStorage(folder / f"s3-{cpus}"), folder / "scratch", report)
        seconds, spent = time.perf_counter() - begin[0][0], cpu_seconds() - begin[0][1]
    return Outcome(
        rows,
        kind,
        cpus,
        rows_per_second=round(rows / seconds),
        seconds=round(seconds, 1),
        cpu_seconds=round(spent, 1),
        peak_gib=round(memory.peak / 2**30, 2),
        added_gib=round((memory.peak - begin[0][2]) / 2**30, 2),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["jsonl"], help="jsonl, json, parquet")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    libraries.set_up("file://")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [measure(kind, arguments.rows, arguments.cpus, Path(folder)) for kind in arguments.kinds]
    target = Path("build/bench/prepare.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    print(f"{'file':8} {'rows':>9} {'CPUs':>4} {'rows/s':>7} {'seconds':>8} {'CPU s':>6} {'GiB':>5} {'added':>5}")
    for outcome in outcomes:
        print(
            f"{outcome.file:8} {outcome.rows:9,} {outcome.cpus:4} {outcome.rows_per_second:7,} {outcome.seconds:8.1f} "
            f"{outcome.cpu_seconds:6.1f} {outcome.peak_gib:5.2f} {outcome.added_gib:5.2f}"
        )
    return 0


if __name__ == "__main__":
    interrupted = "Stopped; nothing was written."
    sys.exit(entrypoint.exit_code(main, console, cure="Run `make bench-prepare` again.", interrupted=interrupted))
