"""`make test-races`: every test that waits for a pod, a process or a signal, many times beside busy loops.

A test that passes on a quiet machine and fails on a busy one awaits something that can have passed. The tests carry the
mark `races`. Each repetition runs a module's tests in one pytest process, which reports them one by one. What is done
is written to the state after each such process: the same command resumes there, and starts over when the code changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dev.localcluster.images import content_digest

ROOT = Path(__file__).parents[1]
CODE = (
    "contract",
    "crds",
    "dev",
    "examples",
    "helm",
    "operator",
    "pyproject.toml",
    "tests",
    "trainer_image",
    "uv.lock",
)
REPORT = "FINETUNE_RACES_REPORT"
"""Names the file in which the pytest process leaves what became of each test."""
_BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with its parent


# --- what one repetition says ----------------------------------------------------------------------------------------
@dataclass
class Result:
    """Of one test in one repetition."""

    outcome: str
    """`passed`, `failed` or `skipped`."""
    seconds: float


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the pytest process, which loads this module as a plugin: a line of JSON for each phase of a test."""
    if path := os.environ.get(REPORT):
        with Path(path).open("a") as lines:
            print(json.dumps([report.nodeid, report.outcome, report.duration]), file=lines)


def read_report(text: str) -> dict[str, Result]:
    """The phases of each test added up: one that fails decides, else one that skips."""
    results: dict[str, Result] = {}
    for line in text.splitlines():
        name, outcome, seconds = json.loads(line)
        result = results.setdefault(name, Result("passed", 0.0))
        result.seconds += seconds
        if outcome == "failed" or (outcome == "skipped" and result.outcome == "passed"):
            result.outcome = outcome
    return results


# --- what is kept ----------------------------------------------------------------------------------------------------
@dataclass
class Tally:
    """Of one test over all repetitions."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    longest: float = 0.0
    log: str = ""
    """Of the first failure."""

    def add(self, result: Result, log: Path) -> None:
        setattr(self, result.outcome, getattr(self, result.outcome) + 1)
        self.longest = max(self.longest, result.seconds)
        if result.outcome == "failed":
            self.log = self.log or str(log)


@dataclass
class State:
    """What has been done for this code and selection.

    Attributes:
        digest: of the code, the selection and the load.
        repetitions: how many of each module are done.
        tests: by the name that pytest gives them.
    """

    digest: str
    repetitions: dict[str, int] = field(default_factory=dict)
    tests: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, digest: str) -> State:
        """An empty one when there is none yet, or it belongs to other code."""
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            return cls(digest)
        if stored["digest"] != digest:
            return cls(digest)
        tests = {name: Tally(**tally) for name, tally in stored["tests"].items()}
        return cls(digest, stored["repetitions"], tests)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=1))
        draft.replace(path)

    def add(self, module: str, names: Sequence[str], results: Mapping[str, Result], log: Path) -> None:
        """One repetition. A test without a result failed: its process ended before it."""
        for name in names:
            self.tests.setdefault(name, Tally()).add(results.get(name, Result("failed", 0.0)), log)
        self.repetitions[module] = self.repetitions.get(module, 0) + 1

    @property
    def has_failures(self) -> bool:
        return any(tally.failed for tally in self.tests.values())


def lines_of(state: State, times: int) -> list[str]:
    """A line per test: how often it passed, its longest run, and where its first failure can be read."""
    lines = []
    for name, tally in sorted(state.tests.items()):
        mark = "✗" if tally.failed else "✓" if tally.passed == times else "·"
        skipped = f", skipped {tally.skipped} times" if tally.skipped else ""
        log = f" → {tally.log}" if tally.log else ""
        lines.append(f"{mark} {tally.passed:>3}/{times}  longest {tally.longest:6.1f} s  {name}{skipped}{log}")
    return lines


# --- the repetitions -------------------------------------------------------------------------------------------------
RunModule = Callable[[str, Path], dict[str, Result]]
"""Runs the marked tests of a module and writes its output to the file."""


@dataclass
class Races:
    """The repetitions that are left.

    Args:
        modules: their tests, by the module's path.
        state_file: written after each repetition of a module; logs of failures lie beside it.
    """

    modules: Mapping[str, Sequence[str]]
    state: State
    state_file: Path
    times: int
    run_module: RunModule

    def left(self) -> list[tuple[str, int]]:
        """Module and number of the repetition: every module once before any comes twice."""
        return [
            (module, number)
            for number in range(1, self.times + 1)
            for module in self.modules
            if number > self.state.repetitions.get(module, 0)
        ]

    def run(self, console: Console) -> None:
        left = self.left()
        total = sum(len(self.modules[module]) for module, _ in left)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tests"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=total)
            for module, number in left:
                bar.update(task, description=f"{number}/{self.times} {module}")
                started = time.monotonic()
                counts = self._repeat(module, number)
                bar.advance(task, len(self.modules[module]))
                console.print(f"{number:>3}/{self.times} {module}: {counts}, {time.monotonic() - started:.0f} s")

    def _repeat(self, module: str, number: int) -> str:
        log = self.state_file.parent / "races" / f"{re.sub(r'[^A-Za-z0-9]+', '-', module)}-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        results = self.run_module(module, log)
        names = self.modules[module]
        self.state.add(module, names, results, log)
        self.state.save(self.state_file)
        failed = sum(results[name].outcome == "failed" if name in results else True for name in names)
        if not failed:
            log.unlink(missing_ok=True)
        return f"{len(names) - failed} passed" + (f", {failed} FAILED: {log}" if failed else "")


def modules_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of tests by their module."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.partition("::")[0], []).append(name)
    return modules


# --- processes -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pytest:
    """pytest processes with one selection of tests."""

    marks: str
    arguments: tuple[str, ...]
    root: Path = ROOT

    def collect(self) -> list[str]:
        """The names of the tests. RuntimeError with pytest's own words when it cannot tell."""
        words = (*self._argv, "--collect-only", "-q", *(self.arguments or ("tests",)))
        done = subprocess.run(words, cwd=self.root, env=self._environment(None), capture_output=True, text=True)
        if done.returncode not in {0, 5}:  # 5: no test is selected
            raise RuntimeError(f"the tests could not be collected:\n{done.stdout}{done.stderr}")
        return [line for line in done.stdout.splitlines() if "::" in line]

    def run_module(self, module: str, log: Path) -> dict[str, Result]:
        report = log.with_suffix(".report")
        report.write_text("")
        places = [word for word in self.arguments if word.startswith(f"{module}::")] or [module]
        options = [word for word in self.arguments if not self._is_place(word)]
        try:
            with log.open("wb") as output:
                self._run((*self._argv, "-q", *places, *options), report, output.fileno())
            return read_report(report.read_text())
        finally:
            report.unlink()

    def _run(self, argv: Sequence[str], report: Path, output: int) -> None:
        process = subprocess.Popen(
            argv, cwd=self.root, env=self._environment(report), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)  # its fixtures end the servers that they started
            process.wait()
            raise

    @property
    def _argv(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "pytest", "-p", "dev.races", "-m", self.marks)

    def _environment(self, report: Path | None) -> dict[str, str]:
        reporting = {REPORT: str(report.absolute())} if report else {}
        return {"OMP_NUM_THREADS": "1", **os.environ, **reporting}

    def _is_place(self, word: str) -> bool:
        return (self.root / word.partition("::")[0]).exists()


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", _BUSY])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.races", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--times", type=int, default=20, help="repetitions of each test (20)")
    parser.add_argument("--busy", type=int, default=2, help="busy loops beside them (2)")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "races.json", help="where it can be resumed")
    parser.add_argument("--cluster", action="store_true", help="also those that need a running cluster")
    parser.add_argument("--fresh", action="store_true", help="start over")
    options, arguments = parser.parse_known_args(words)
    console = Console(highlight=False, soft_wrap=True)

    marks = "races and not nightly" + ("" if options.cluster else " and not cluster")
    selection = Pytest(marks, tuple(arguments))
    state = State(content_digest(ROOT, CODE, marks, str(options.busy), *arguments))
    if not options.fresh:
        state = State.load(options.state, state.digest)
    modules = modules_of(selection.collect())
    if not modules:
        console.print("no test with the mark `races` is selected")
        return 1
    races = Races(modules, state, options.state, options.times, selection.run_module)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop in the background is a Ctrl-C
    try:
        with busy_loops(options.busy):
            races.run(console)
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes here")
    for line in lines_of(state, options.times):
        console.print(line, markup=False)
    return 1 if state.has_failures or races.left() else 0


if __name__ == "__main__":
    sys.exit(main())
