"""`make test`: every test, in two lanes that share the machine.

One lane runs what needs no cluster. The other one starts the cluster and its images, then runs the tests on the API
server, those on whole nodes that may run side by side, and those that need the cluster to themselves. Both wait more
than they compute. Last comes the test that takes the cluster down and looks for what was left behind. The summary names
each step that failed, its failed tests, and the command that runs it alone.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock

from rich.console import Console

from dev.kit import entrypoint

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q")
LOCALCLUSTER = (sys.executable, "-m", "dev.localcluster")
WITHOUT_CLUSTER = (
    "tests/unit",
    "tests/crash",
    "tests/contract",
    "tests/chart",
    "tests/trainer",
    "tests/upgrade",
    "tests/localcluster",
    "tests/dev",
)
ON_API_SERVER = ("tests/api", "tests/contract")  # a process of its own: its nodes without a kubelet end with it
UPGRADES = ("tests/upgrade",)  # they change the CRDs: no other operator may be there
ON_NODES = ("tests/localcluster", "tests/e2e")
LAST = ("tests/localcluster/test_down.py",)
_FAILURES = ("FAILED ", "ERROR ")  # of pytest's short summary
_TITLE = re.compile(r"_{3,} (?P<title>\S.*\S) _{3,}")  # above what pytest tells of one failure
_TOLD = "E   "  # pytest: a line of the error's own words
_LINES_TOLD = 12  # the last ones say why
AT_ONCE = 3  # jobs on the cluster's two nodes


@dataclass(frozen=True)
class Step:
    """One process of a lane."""

    title: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """Runs this step alone, from the root of the repository."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*settings, shlex.join(("uv", "run", "python", *self.argv[1:]))])


@dataclass(frozen=True)
class Result:
    """How a step ended."""

    step: Step
    code: int
    seconds: float
    failures: tuple[str, ...] = ()
    """pytest's lines about tests that failed."""
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The last words of each failure, by pytest's title."""

    @property
    def passed(self) -> bool:
        return self.code == 0


def pytest_step(title: str, folders: tuple[str, ...], marks: str = "", *words: str) -> Step:
    return Step(title, (*PYTEST, *folders, *(("-m", marks) if marks else ()), *words))


ALONE = [
    replace(
        pytest_step("without a cluster", WITHOUT_CLUSTER, "not nightly and not cluster"),
        environment={"OMP_NUM_THREADS": "1"},  # tiny models: a second thread would spin on the other lane's core
    )
]
# From scratch: what somebody installed on a running cluster would take part in the tests.
CLUSTER = [Step("cluster down", (*LOCALCLUSTER, "down")), Step("cluster up", (*LOCALCLUSTER, "up", "--images"))]
ON_CLUSTER = [
    pytest_step("on the API server", ON_API_SERVER, "cluster and not nightly"),
    pytest_step("upgrades on the API server", UPGRADES, "cluster and not nightly"),
    pytest_step("on nodes", ON_NODES, "cluster and not nightly and not serial", "-n", str(AT_ONCE)),
    pytest_step("on nodes, one by one", ON_NODES, "serial and not nightly"),
]
DOWN = [pytest_step("cluster down", LAST)]


class Terminal:
    """Shared by the lanes: whole lines, each under its lane's name."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.stopped = Event()
        """No further step starts."""

    def say(self, lane: str, line: str) -> None:
        with self._lock:
            print(f"{lane:>7} │ {line}", flush=True)


def main() -> int:
    """Run both lanes, then say what failed and how to run it alone."""
    terminal = Terminal()
    with ThreadPoolExecutor() as pool:
        lanes = [pool.submit(run_lane, terminal, "local", ALONE), pool.submit(run_cluster_lane, terminal)]
        try:
            results = [result for lane in lanes for result in lane.result()]
        except KeyboardInterrupt:  # the processes got it too
            terminal.stopped.set()
            raise
    results += run_lane(terminal, "cluster", DOWN)
    print(f"\n{summary(results)}", flush=True)
    return 0 if all(result.passed for result in results) else entrypoint.FAILED


def run_cluster_lane(terminal: Terminal) -> list[Result]:
    """Without a cluster each of its tests would only say so again: they are left out then."""
    results = []
    for step in CLUSTER:
        results.append(run(terminal, "cluster", step))
        if not results[-1].passed:
            return results
    return results + run_lane(terminal, "cluster", ON_CLUSTER)


def run_lane(terminal: Terminal, name: str, steps: Sequence[Step]) -> list[Result]:
    """All of its steps, whatever became of the earlier ones."""
    return [run(terminal, name, step) for step in steps if not terminal.stopped.is_set()]


def run(terminal: Terminal, lane: str, step: Step) -> Result:
    started, failures = time.monotonic(), []
    told: dict[str, list[str]] = {}
    title = ""
    terminal.say(lane, f"=== {step.title}")
    with subprocess.Popen(
        step.argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **step.environment},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            terminal.say(lane, line.rstrip())
            if line.startswith(_FAILURES):
                failures.append(line.rstrip())
            elif found := _TITLE.fullmatch(line.rstrip()):
                title = found["title"]
            elif line.startswith(_TOLD):
                told[title] = [*told.get(title, []), line.removeprefix(_TOLD).rstrip()][-_LINES_TOLD:]
    result = Result(step, process.returncode, time.monotonic() - started, tuple(failures), told)
    terminal.say(lane, f"=== {_outcome(result)}")
    return result


def summary(results: Sequence[Result]) -> str:
    """A line per step; below a failed one its failed tests and the command that runs it alone. Last what the failures
    said: where output is cut, its end is kept."""
    lines = []
    for result in results:
        lines.append(_outcome(result))
        if not result.passed:
            lines += [f"    {line}" for line in result.failures]
            lines.append(f"    alone: {result.step.command}")
    if skipped := [step.title for step in ON_CLUSTER if step not in [result.step for result in results]]:
        lines.append(f"- not run, for want of a cluster: {', '.join(skipped)}")
    for title, words in [told for result in results for told in result.told.items()]:
        lines += [f"\n{title}", *(f"    {line}" for line in words)]
    return "\n".join(lines)


def _outcome(result: Result) -> str:
    sign, how = ("✓", "passed") if result.passed else ("✗", f"failed with exit code {result.code}")
    return f"{sign} {result.step.title}: {how} after {result.seconds:.0f} s"


if __name__ == "__main__":
    cure = "Run the step alone by the command in the summary, or start anew: make down test"
    interrupted = (
        "Stopped. The cluster may still be up:\n  make test     # from the start\n  make down     # stop the cluster"
    )
    sys.exit(entrypoint.exit_code(main, Console(), cure=cure, interrupted=interrupted))
