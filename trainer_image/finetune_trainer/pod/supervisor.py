"""PID 1 of a training pod: starts the ranks of this node, forwards SIGTERM, ends a node that stands still, and reports
how the ranks ended.

torchrun is not used: it turns every exit code into 1 and kills the ranks 30 s after SIGTERM, in the middle of a save.
Knows processes, signals and records; nothing about training. Must start at once: no torch, no boto3.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_contract import names
from finetune_contract.exitcodes import ExitCode
from finetune_contract.jobspec import World
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import STOPPED_WITHOUT_SAVE, TerminationRecord
from finetune_trainer.causes.table import CONSEQUENCES
from finetune_trainer.pod import outcome
from finetune_trainer.pod.watch import Hang, Watch, stacks
from finetune_trainer.rank.cpus import available_cpus

RANK_COMMAND = (sys.executable, "-m", "finetune_trainer", "rank")
PATIENCE_SECONDS = 30.0
"""How long the others may continue once a rank failed: time to notice, and to write their own record. It begins anew
with each block that one of them moves from or to the storage: an upload is never cut short."""
HUNG = "Hung"

_DECISIVE = (
    # From cause to consequence: a rank out of memory leaves the others with a broken collective.
    ExitCode.ACCELERATOR_OUT_OF_MEMORY,
    ExitCode.DIVERGED,
    ExitCode.INVALID_DATA,
    ExitCode.INVALID_CONFIGURATION,
    ExitCode.NO_VALID_CHECKPOINT,
    ExitCode.TRANSIENT,
    ExitCode.STOPPED_AFTER_SAVE,
)
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    status: int
    """Exit code, or minus the signal that killed it."""
    record: TerminationRecord | None
    ended_by_us: bool = False

    @property
    def code(self) -> ExitCode | None:
        """The contract's code: it counts only when the record says the same."""
        return self.record.code if self.record and self.record.exit_code == self.status else None


def supervise(
    world: World,
    *,
    command: Sequence[str] = RANK_COMMAND,
    scratch: Path,
    patience_seconds: float = PATIENCE_SECONDS,
) -> TerminationRecord:
    """Runs this node's ranks to their end and returns the record of them all."""
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="outcome-", dir=scratch))
    watched = {signal.SIGCHLD, *_STOP_SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        node = _Node(world, outcome.node_rank(), folder, command)
        node.start()
        ends = node.wait(watched, patience_seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return conclude(ends, stop_requested=node.stop_requested, folder=folder, hang=node.hang)


class _Node:
    """The processes of one node. Signals are waited for, not handled: none can arrive at a bad moment."""

    def __init__(self, world: World, node_rank: int, folder: Path, command: Sequence[str]) -> None:
        self._world, self._node_rank, self._folder, self._command = world, node_rank, folder, command
        self._running: dict[int, int] = {}
        self._ends: dict[int, RankEnd] = {}
        self._killed = False
        self._watch = Watch(folder)
        self.stop_requested = False
        self.hang: Hang | None = None

    def start(self) -> None:
        for local_rank in range(self._world.processes_per_node):
            env = rank_environment(self._world, self._node_rank, local_rank, os.environ, available_cpus())
            pid = os.posix_spawn(
                self._command[0],
                list(self._command),
                {**env, outcome.ENV_OUTCOME_DIR: str(self._folder)},
                setsigmask=(),  # a rank must receive what is blocked here
                setsigdef=_STOP_SIGNALS,
                setpgroup=0,  # its own group: killing it also kills the workers that it started
            )
            self._running[pid] = local_rank

    def wait(self, watched: set[signal.Signals], patience_seconds: float) -> list[RankEnd]:
        deadline: float | None = None
        moved, tick = 0, self._watch.tick_seconds
        while self._running:
            left = tick if deadline is None else min(tick, max(0.0, deadline - time.monotonic()))
            event = signal.sigtimedwait(watched, left)
            if event is not None and event.si_signo in _STOP_SIGNALS:
                self._stop()
            self._reap()
            self._end_if_hung()
            if any(end.code is not ExitCode.SUCCEEDED for end in self._ends.values()):
                if deadline is None or self._watch.moved() > moved:
                    deadline = time.monotonic() + patience_seconds
                if time.monotonic() >= deadline and not self._killed:
                    self._kill("is still running after another rank ended")
            moved = self._watch.moved()
        return [self._ends[rank] for rank in sorted(self._ends)]

    def _end_if_hung(self) -> None:
        hang = self._watch.look(self._running)
        if hang is None or self._killed:
            return
        self.hang = hang
        print(f"supervisor: {hang.describe(self._rank(hang.local_rank))}", flush=True)
        for local_rank, text in stacks(self._folder, self._running).items():
            print(f"--- stacks of rank {self._rank(local_rank)} ---\n{text or 'it cannot say'}", flush=True)
        self._kill("stands still")

    def _stop(self) -> None:
        """The first request is passed on; a second changes nothing, since the ranks are saving already."""
        if self.stop_requested:
            return
        self.stop_requested = True
        print("supervisor: asked to stop; the ranks finish their step and save", flush=True)
        for pid in self._running:
            _send(pid, signal.SIGTERM)

    def _kill(self, why: str) -> None:
        self._killed = True
        for pid, local_rank in self._running.items():
            print(f"supervisor: rank {self._rank(local_rank)} {why}; killed", flush=True)
            _send(-pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Reaps whatever ended: ranks, and orphans that the kernel gave to PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (local_rank := self._running.pop(pid, None)) is not None:
                self._note(local_rank, pid, os.waitstatus_to_exitcode(status))

    def _note(self, local_rank: int, pid: int, status: int) -> None:
        _send(-pid, signal.SIGKILL)  # workers that outlived their rank
        record = outcome.read_record(outcome.rank_file(self._folder, local_rank))
        rank = self._rank(local_rank)
        self._ends[rank] = RankEnd(rank, status, record, ended_by_us=self._killed and status == -signal.SIGKILL)

    def _rank(self, local_rank: int) -> int:
        return self._node_rank * self._world.processes_per_node + local_rank


def _send(target: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in the meantime
        os.kill(target, number)


# --- environment of a rank -------------------------------------------------------------------------------------------
def rank_environment(
    world: World, node_rank: int, local_rank: int, base: Mapping[str, str], cpus: int
) -> dict[str, str]:
    """torch's `env://` rendezvous, and a fair share of the node's CPUs."""
    return {
        **base,
        "RANK": str(node_rank * world.processes_per_node + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_WORLD_SIZE": str(world.processes_per_node),
        "NODE_RANK": str(node_rank),
        names.ENV_MASTER_ADDR: base.get(names.ENV_MASTER_ADDR, "127.0.0.1"),
        "MASTER_PORT": base.get("MASTER_PORT", str(names.PORT_RENDEZVOUS)),
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", str(max(1, cpus // world.processes_per_node))),
        "PYTHONUNBUFFERED": "1",
    }


# --- what the ends of the ranks mean ---------------------------------------------------------------------------------
def conclude(
    ends: Sequence[RankEnd], *, stop_requested: bool, folder: Path, hang: Hang | None = None
) -> TerminationRecord:
    """One record for the node: the decisive end, with what rank 0 achieved."""
    first = next((end.record for end in ends if end.rank == 0 and end.record), None)
    progress = (first and first.progress) or outcome.read_progress(folder)
    verdict = _true_to(_decide(ends, stop_requested, hang), ends, progress)
    return verdict.model_copy(
        update={
            "node_rank": outcome.node_rank(),
            "progress": progress,
            "artifact": first and first.artifact,
            "evaluation": first and first.evaluation,
        }
    )


def _decide(ends: Sequence[RankEnd], stop_requested: bool, hang: Hang | None) -> TerminationRecord:
    if all(end.code is ExitCode.SUCCEEDED for end in ends):
        return next(end.record for end in ends if end.record)
    causes = [end for end in ends if not _follows(end)]
    for code in _DECISIVE:
        if chosen := next((end for end in causes if end.code is code), None):
            return _named(chosen, len(ends))
    if hang is not None:
        per_node = len(ends)
        rank = outcome.node_rank() * per_node + hang.local_rank
        return _record(ExitCode.TRANSIENT, HUNG, hang.describe(rank))
    own = [end for end in ends if not end.ended_by_us and end.code is not ExitCode.SUCCEEDED]
    if stop_requested and all(end.status == -signal.SIGTERM and end.record is None for end in own):
        return _record(ExitCode.STOPPED_AFTER_SAVE, "StoppedAfterSave", "stopped before anything was begun")
    return _without_code(own or list(ends))


def _true_to(verdict: TerminationRecord, ends: Sequence[RankEnd], progress: ProgressRecord | None) -> TerminationRecord:
    """A rank says 85 of itself. Where another was killed before it could say what it had saved, its progress does."""
    if verdict.code is not ExitCode.STOPPED_AFTER_SAVE or progress is None or not any(end.ended_by_us for end in ends):
        return verdict
    saved = progress.checkpoint_step or 0
    if progress.step <= saved:
        return verdict
    message = (
        f"stopped on request; steps {saved + 1} to {progress.step} are not saved: the next attempt does them again"
    )
    return _record(ExitCode.TRANSIENT, STOPPED_WITHOUT_SAVE, message)


def _named(end: RankEnd, ranks: int) -> TerminationRecord:
    assert end.record is not None
    if ranks == 1:
        return end.record
    return end.record.model_copy(update={"message": f"rank {end.rank}: {end.record.message}"})


def _without_code(ends: Iterable[RankEnd]) -> TerminationRecord:
    """Killed from outside, or a bug. A kill is the likelier cause of the other ranks' errors."""
    end = min(ends, key=lambda end: (end.status >= 0, _follows(end), end.rank))
    if end.status < 0:
        number = -end.status
        cure = "; the kernel does this when the memory limit is reached: raise spec.resources.memory" * (number == 9)
        message = f"rank {end.rank} was killed by signal {number} ({signal.Signals(number).name}){cure}"
        return _record(128 + number, "RankKilled", message)
    if end.record and end.record.exit_code == end.status:
        return end.record.model_copy(update={"message": f"rank {end.rank}: {end.record.message}"})
    status = end.status or outcome.EXIT_BUG
    return _record(status, "NoOutcome", f"rank {end.rank} exited with {end.status} and left no record of the reason")


def _follows(end: RankEnd) -> bool:
    """It says no more than that another rank is gone."""
    return end.record is not None and end.record.reason in CONSEQUENCES


def _record(code: int, reason: str, message: str) -> TerminationRecord:
    return TerminationRecord(role="train", exit_code=code, reason=reason, message=message)
