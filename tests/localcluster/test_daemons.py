"""Daemons, with real processes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.localcluster.daemons import Daemon, DaemonError, Daemons, parse_stat, read_stat
from dev.localcluster.waiting import until

pytestmark = pytest.mark.races

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def python(name: str, code: str, **files: str) -> Daemon:
    return Daemon(name, (sys.executable, "-c", code), files={Path(path): text for path, text in files.items()})


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path)
    yield daemons
    daemons.stop(daemons.names(), first=signal.SIGKILL)


def test_a_daemon_runs_in_its_own_session_and_is_found_by_another_process(daemons: Daemons) -> None:
    assert daemons.ensure(python("sleeper", "import time; time.sleep(600)"))
    pid = daemons.pid("sleeper")
    assert pid
    assert os.getsid(pid) == pid
    assert Daemons(daemons.folder).pid("sleeper") == pid


def test_a_running_daemon_is_left_alone(daemons: Daemons) -> None:
    daemon = python("sleeper", "import time; time.sleep(600)")
    daemons.ensure(daemon)
    pid = daemons.pid("sleeper")
    assert not daemons.ensure(daemon)
    assert daemons.pid("sleeper") == pid


def test_a_changed_file_restarts_it(daemons: Daemons, tmp_path: Path) -> None:
    code = "import time; time.sleep(600)"
    daemons.ensure(python("sleeper", code, **{f"{tmp_path}/config": "one"}))
    pid = daemons.pid("sleeper")
    assert daemons.ensure(python("sleeper", code, **{f"{tmp_path}/config": "two"}))
    assert daemons.pid("sleeper") != pid
    assert (tmp_path / "config").read_text() == "two"


def test_one_that_ignores_sigterm_is_killed_after_the_grace(daemons: Daemons) -> None:
    daemons.ensure(python("stubborn", STUBBORN), lambda: "deaf" in daemons.tail("stubborn"), seconds=300)
    daemons.stop(["stubborn"], grace=0.2)
    assert daemons.pid("stubborn") is None


def test_one_that_ends_on_its_own_is_reported_at_once_with_its_log(daemons: Daemons) -> None:
    daemon = python("broken", "raise SystemExit('no such flag')")
    with pytest.raises(DaemonError, match="no such flag"):
        daemons.ensure(daemon, lambda: False, seconds=300)


def test_a_stopped_daemon_starts_again_as_it_was(daemons: Daemons) -> None:
    daemons.ensure(python("sleeper", "import time; time.sleep(600)"))
    daemons.stop(["sleeper"])
    assert daemons.pid("sleeper") is None
    daemons.start("sleeper")
    assert daemons.pid("sleeper")


def test_a_pid_that_belongs_to_another_process_by_now_is_never_signalled(daemons: Daemons) -> None:
    daemons.ensure(python("mine", "import time; time.sleep(600)"))
    stranger = daemons.pid("mine")
    assert stranger
    record = daemons.folder / "mine/record.json"
    as_it_was = record.read_text()
    record.write_text(json.dumps({**json.loads(as_it_was), "start": 1}))
    assert daemons.pid("mine") is None
    daemons.stop(["mine"], first=signal.SIGKILL)
    assert read_stat(stranger)
    record.write_text(as_it_was)


def test_a_record_cut_short_by_a_crash_counts_as_none(daemons: Daemons) -> None:
    (daemons.folder / "torn").mkdir()
    (daemons.folder / "torn/record.json").write_text('{"pid": 12')
    assert daemons.pid("torn") is None


def test_an_unknown_daemon_is_refused_by_name(daemons: Daemons) -> None:
    with pytest.raises(DaemonError, match="there was no kubelet yet"):
        daemons.start("kubelet")


def test_a_command_name_may_hold_blanks_and_brackets() -> None:
    tail = "S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0"
    assert parse_stat(f"7 (a b) c) {tail}\n").start == 4242


def test_an_ended_child_is_not_left_a_zombie(daemons: Daemons) -> None:
    daemons.ensure(python("brief", "pass"))
    until("it ends", lambda: daemons.pid("brief") is None, seconds=300)
