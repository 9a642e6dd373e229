"""`make test`: every test, on two lanes that share the machine.

One lane runs what needs no cluster. The other one makes the cluster and its images, then runs the tests on the API
server, those on whole nodes that bear company, and those that need the cluster for themselves. Both wait more than they
compute. Last comes the test that takes the cluster down and looks for what was left behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q")
LOCALCLUSTER = (sys.executable, "-m", "dev.localcluster")
WITHOUT_CLUSTER = ("tests/unit", "tests/crash", "tests/contract", "tests/chart", "tests/trainer", "tests/localcluster")
ON_API_SERVER = ("tests/api", "tests/contract")  # a process of its own: its nodes that are none end with it
ON_NODES = ("tests/localcluster", "tests/e2e")
LAST = ("tests/localcluster/test_down.py",)
AT_ONCE = 3  # jobs of the cluster's two nodes


@dataclass(frozen=True)
class Step:
    """One process of a lane."""

    title: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def pytest_step(title: str, folders: tuple[str, ...], marks: str = "", *words: str) -> Step:
    missing = [folder for folder in folders if not (ROOT / folder).exists()]
    assert not missing, f"no such test folder: {missing}"
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
    pytest_step("on nodes", ON_NODES, "cluster and not nightly and not serial", "-n", str(AT_ONCE)),
    pytest_step("on nodes, one by one", ON_NODES, "serial and not nightly"),
]
DOWN = [pytest_step("cluster down", LAST)]


class Terminal:
    """Shared by the lanes: whole lines, each under its lane's name."""

    def __init__(self) -> None:
        self._lock = Lock()

    def say(self, lane: str, line: str) -> None:
        with self._lock:
            print(f"{lane:>7} │ {line}", flush=True)


def main() -> int:
    terminal = Terminal()
    with ThreadPoolExecutor() as pool:
        lanes = [pool.submit(run_lane, terminal, "local", ALONE), pool.submit(run_cluster_lane, terminal)]
    passed = all(lane.result() for lane in lanes)
    return 0 if run_lane(terminal, "cluster", DOWN) and passed else 1


def run_cluster_lane(terminal: Terminal) -> bool:
    """Without a cluster its tests would only say so one by one."""
    return all(run(terminal, "cluster", step) for step in CLUSTER) and run_lane(terminal, "cluster", ON_CLUSTER)


def run_lane(terminal: Terminal, name: str, steps: list[Step]) -> bool:
    """All of its steps, whatever became of those before; True when each has passed."""
    passed = [run(terminal, name, step) for step in steps]
    return all(passed)


def run(terminal: Terminal, lane: str, step: Step) -> bool:
    started = time.monotonic()
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
    how = "passed" if process.returncode == 0 else f"failed ({process.returncode})"
    terminal.say(lane, f"=== {step.title}: {how}, {time.monotonic() - started:.0f} s")
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
