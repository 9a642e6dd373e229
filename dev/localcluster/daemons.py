"""Start, watch and stop the cluster's programs.

A daemon is a value: what to run and the files it reads. Its folder holds the pid record, the log and those files.
A process is ours only when pid *and* start time match the record: a pid alone may belong to somebody else by now.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dev.localcluster.waiting import GaveUpError, until


@dataclass(frozen=True)
class Daemon:
    """A long-running program. `files` are written before it starts; a change of any of them restarts it."""

    name: str
    argv: tuple[str, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes when the daemon would run differently."""
        files = {str(path): text for path, text in self.files.items()}
        return hashlib.sha256(json.dumps([self.argv, files, dict(self.env)], sort_keys=True).encode()).hexdigest()


class DaemonError(RuntimeError):
    """A daemon ended on its own or did not become ready."""


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says about a process."""

    state: str
    start: int  # clock ticks since boot


def parse_stat(text: str) -> Stat:
    """The command name may hold blanks and brackets, so count from the last bracket."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(state=fields[0], start=int(fields[19]))


def read_stat(pid: int) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Record:
    """What is written down about a started daemon, enough to find it, judge it and start it again."""

    pid: int
    start: int
    argv: list[str]
    env: dict[str, str]
    digest: str


class Daemons:
    """All daemons below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, name: str) -> Path:
        return self.folder / name / "log"

    def names(self) -> list[str]:
        """Those that were started since the cluster came up, running or not."""
        return sorted(path.parent.name for path in self.folder.glob("*/record.json"))

    def pid(self, name: str) -> int | None:
        """The pid of the running process, None when it does not run."""
        record = self._record(name)
        if not record:
            return None
        with suppress(ChildProcessError):
            os.waitpid(
                record.pid, os.WNOHANG
            )  # ours in a second sense when this process started it: do not leave a zombie
        stat = read_stat(record.pid)
        return record.pid if stat and stat.start == record.start and stat.state not in "ZX" else None

    def is_current(self, daemon: Daemon) -> bool:
        """Whether it runs, and exactly so."""
        record = self._record(daemon.name)
        return record is not None and record.digest == daemon.digest and self.pid(daemon.name) is not None

    def ensure(self, daemon: Daemon, ready: Callable[[], bool] | None = None, *, seconds: float = 60) -> bool:
        """Run it, restarted if it runs with other arguments or files, and wait until ready. True if it was started."""
        started = not self.is_current(daemon)
        if started:
            self.stop([daemon.name])
            for path, text in daemon.files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            self._spawn(daemon.name, list(daemon.argv), dict(daemon.env), daemon.digest)
        if ready:
            self.wait(daemon.name, ready, seconds=seconds)
        return started

    def start(self, name: str) -> None:
        """Start it again as it was."""
        record = self._record(name)
        if not record:
            raise DaemonError(f"there was no {name} yet: know {', '.join(self.names()) or 'none'}")
        if self.pid(name) is None:
            self._spawn(name, record.argv, record.env, record.digest)

    def wait(self, name: str, ready: Callable[[], bool], *, seconds: float = 60) -> None:
        """Until ready; a daemon that has ended is reported at once, with the end of its log."""

        def probe() -> bool:
            if self.pid(name) is None:
                raise DaemonError(f"{name} ended:\n{self.tail(name)}")
            return ready()

        try:
            until(f"{name} is not ready", probe, seconds=seconds)
        except GaveUpError as error:
            raise DaemonError(f"{error}\n{self.tail(name)}") from error

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def stop(self, names: Iterable[str], *, grace: float = 10, first: signal.Signals = signal.SIGTERM) -> None:
        """Signal all at once, wait for all together, then kill what is left, each by its pid."""
        pids = {name: pid for name in names if (pid := self.pid(name))}
        for pid in pids.values():
            send(pid, first)
        deadline = time.monotonic() + grace
        while (alive := [name for name in pids if self.pid(name)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for name in alive:
            send(pids[name], signal.SIGKILL)
        for name in alive:
            until(f"{name} survives SIGKILL", lambda name=name: self.pid(name) is None)  # type: ignore[misc]

    def _record(self, name: str) -> Record | None:
        try:
            return Record(**json.loads((self.folder / name / "record.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):  # none, or cut short by a crash
            return None

    def _spawn(self, name: str, argv: list[str], env: dict[str, str], digest: str) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Its own session: a Ctrl-C in the terminal is not for the cluster.
            # No Popen: its object would complain about a child that outlives it.
            pid = os.posix_spawnp(
                argv[0],
                argv,
                {**os.environ, **env},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
            )
        finally:
            os.close(log)
        stat = read_stat(pid)
        record = Record(pid=pid, start=stat.start if stat else 0, argv=argv, env=env, digest=digest)
        (folder / "record.json").write_text(json.dumps(asdict(record), indent=1))


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
