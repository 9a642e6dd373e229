"""`make test`: every test in an order that keeps both cores busy.

The cluster and the images are built in the background while the tests that need neither run in the foreground. Then
come the tests on the real cluster, and last the one that takes it down and looks for what it left behind.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "build" / "logs"
PYTEST = [sys.executable, "-m", "pytest", "-q"]
WITHOUT_CLUSTER = ["tests/unit", "tests/crash", "tests/contract", "tests/chart", "tests/trainer", "tests/localcluster"]
ON_API_SERVER = ["tests/api", "tests/contract"]  # a process of its own: its nodes that are none end with it
ON_CLUSTER = ["tests/localcluster", "tests/e2e"]
LAST = ["tests/localcluster/test_down.py"]


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "cluster.log"
    with log.open("wb") as sink:
        print(f"cluster and images are made in the background, log: {log.relative_to(ROOT)}", flush=True)
        # From scratch: what somebody installed on a running cluster would take part in the tests.
        localcluster("down", sink).wait()
        builder = localcluster("up --images", sink)
        failed = not run("without a cluster", [*existing(WITHOUT_CLUSTER), "-m", "not nightly and not cluster"])
        if builder.wait() != 0:
            print(log.read_text()[-6000:], f"the cluster did not start; the whole log: {log}", sep="\n")
            return 1
    failed |= not run("on the API server", [*existing(ON_API_SERVER), "-m", "cluster and not nightly"])
    failed |= not run("on the cluster", [*existing(ON_CLUSTER), "-m", "cluster and not nightly"])
    failed |= not run("cluster down", existing(LAST))
    return int(failed)


def localcluster(words: str, sink: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.localcluster", *words.split()], stdout=sink, stderr=sink, cwd=ROOT
    )


def run(title: str, words: list[str]) -> bool:
    """One pytest process; True when it passed."""
    started = time.monotonic()
    print(f"=== tests {title}", flush=True)
    code = subprocess.call([*PYTEST, *words], cwd=ROOT)
    print(f"=== tests {title}: {'passed' if code == 0 else f'failed ({code})'}, {time.monotonic() - started:.0f} s")
    return code == 0


def existing(folders: list[str]) -> list[str]:
    missing = [folder for folder in folders if not (ROOT / folder).exists()]
    assert not missing, f"no such test folder: {missing}"
    return folders


if __name__ == "__main__":
    sys.exit(main())
