"""The supervisor with real processes for ranks: who is started, who is signalled, how they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.localcluster.waiting import until
from finetune_contract.exitcodes import ExitCode
from finetune_contract.jobspec import World
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import ArtifactResult, TerminationRecord
from finetune_trainer.pod import outcome
from finetune_trainer.pod.supervisor import RankEnd, available_cpus, conclude, rank_environment

pytestmark = pytest.mark.races

# What a rank script can use: no torch, no pydantic, so that a process starts in milliseconds.
PRELUDE = """
import faulthandler, json, os, signal, struct, sys, time
folder, me = os.environ["FINETUNE_OUTCOME_DIR"], int(os.environ["RANK"])
def leave(code, reason="R", message="m", **more):
    path = f"{folder}/rank-{os.environ['LOCAL_RANK']}.json"
    record = {"role": "train", "exitCode": code, "reason": reason, "message": message, **more}
    open(path + ".draft", "w").write(json.dumps(record)); os.replace(path + ".draft", path)
def end(code, **more):
    leave(code, **more); os._exit(code)
def mark(name): open(f"{folder}/../{name}-{me}", "a").write("x")
def wait_for(name):
    while not os.path.exists(f"{folder}/../{name}"): time.sleep(0.005)
def show(beats, limit, step=0, stage="training", moved=0):
    data = struct.pack("<QQdq40s", beats, moved, limit, step, stage.encode())
    path = f"{folder}/heartbeat-{os.environ['LOCAL_RANK']}"
    open(path + ".draft", "wb").write(data); os.replace(path + ".draft", path)
def on_term(action): signal.signal(signal.SIGTERM, lambda *_: action())
"""


@dataclass
class Supervised:
    process: subprocess.Popen[bytes]
    scratch: Path
    log: Path

    def wait_for(self, name: str) -> None:
        until(f"{name} is marked", lambda: (self.scratch / name).exists(), seconds=60, pause=0.01)

    def end(self) -> tuple[int, TerminationRecord | None]:
        code = self.process.wait(timeout=500)
        return code, TerminationRecord.parse(self.log.read_text()) if self.log.exists() else None


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(script: str, *, ranks: int = 1, nodes: int = 1, patience: float = 300, **env: str) -> Supervised:
        scratch, log = tmp_path / "scratch", tmp_path / "termination-log"
        order = {"nodes": str(nodes), "ranks": str(ranks), "patience": str(patience)}
        order |= {"scratch": str(scratch), "script": PRELUDE + script}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.supervised", json.dumps(order)],
            env={**os.environ, "FINETUNE_TERMINATION_LOG": str(log), **env},
            cwd=Path(__file__).parents[2],
        )
        return Supervised(process, scratch, log)

    return begin


# --- real processes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", list(ExitCode))
def test_every_code_of_the_contract_gets_through(start: Start, code: ExitCode) -> None:
    exit_code, record = start(f"end({int(code)}, reason='Because', message='of this')").end()
    assert exit_code == code
    assert record is not None
    assert (record.exit_code, record.reason, record.message) == (code, "Because", "of this")


def test_ranks_get_their_place_in_the_world(start: Start) -> None:
    script = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
end(0, message=" ".join(os.environ[name] for name in names))
"""
    running = start(script, ranks=2, nodes=3, JOB_COMPLETION_INDEX="2", MASTER_ADDR="faq-r1-a1-0.faq-r1")
    _, record = running.end()
    assert record is not None
    assert record.message == "4 0 6 2 2 faq-r1-a1-0.faq-r1 29500"
    assert record.node_rank == 2


def test_what_rank_0_achieved_is_in_the_record_of_any_end(start: Start) -> None:
    script = """
progress = {"run": 1, "attempt": 2, "stage": "training", "step": 41}
open(f"{folder}/progress.json", "w").write(json.dumps(progress)) if me == 0 else wait_for("x-0")
mark("x")
if me: wait_for("x-0"); os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    code, record = start(script, ranks=2, patience=0).end()
    assert code == 137
    assert record is not None
    assert record.progress is not None
    assert record.progress.step == 41


def test_sigterm_reaches_every_rank_and_their_save_decides(start: Start) -> None:
    script = """
on_term(lambda: end(85, reason="StoppedAfterSave"))
mark("ready")
time.sleep(600)
"""
    running = start(script, ranks=2)
    running.wait_for("ready-0")
    running.wait_for("ready-1")
    running.process.send_signal(signal.SIGTERM)
    code, record = running.end()
    assert code == 85
    assert record is not None
    assert record.code is ExitCode.STOPPED_AFTER_SAVE


def test_a_second_sigterm_changes_nothing(start: Start) -> None:
    script = """
on_term(lambda: mark("asked"))
mark("ready")
wait_for("saved")
end(85)
"""
    running = start(script)
    running.wait_for("ready-0")
    running.process.send_signal(signal.SIGTERM)
    running.wait_for("asked-0")
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGINT)
    until("the signal is delivered", lambda: not _pending(running.process.pid, signal.SIGTERM, signal.SIGINT))
    (running.scratch / "saved").touch()
    assert running.end()[0] == 85
    assert (running.scratch / "asked-0").read_text() == "x"


def test_sigterm_before_a_rank_listens_loses_nothing(start: Start) -> None:
    running = start("mark('ready'); time.sleep(600)")
    running.wait_for("ready-0")
    running.process.send_signal(signal.SIGTERM)
    code, record = running.end()
    assert code == 85
    assert record is not None
    assert "before anything was begun" in record.message


def test_a_rank_killed_by_the_kernel_is_named_and_has_no_code_of_the_contract(start: Start) -> None:
    code, record = start("os.kill(os.getpid(), signal.SIGKILL) if me == 1 else end(0)", ranks=2).end()
    assert code == 137
    assert record is not None
    assert record.code is None
    assert record.reason == "RankKilled"
    assert "rank 1" in record.message
    assert "SIGKILL" in record.message
    assert "spec.resources.memory" in record.message


def test_a_rank_that_hangs_after_another_failed_is_killed(start: Start) -> None:
    script = """
on_term(lambda: None)
if me == 0: mark("hangs"); time.sleep(600)
wait_for("hangs-0")
end(71)
"""
    code, record = start(script, ranks=2, patience=0.1).end()
    assert code == 71
    assert record is not None
    assert record.message == "rank 1: m"


def test_a_rank_has_time_to_leave_its_own_record_after_another_was_killed(start: Start) -> None:
    script = """
if me == 1:
    mark("gone"); os.kill(os.getpid(), signal.SIGKILL)
wait_for("gone-1")
end(72)
"""
    assert start(script, ranks=2).end()[0] == 72


def test_an_exit_code_without_its_record_is_not_believed(start: Start) -> None:
    code, record = start("os._exit(0)").end()
    assert code == 1
    assert record is not None
    assert record.reason == "NoOutcome"


def test_a_code_that_differs_from_its_record_is_not_believed(start: Start) -> None:
    code, record = start("leave(85); os._exit(3)").end()
    assert code == 3
    assert record is not None
    assert record.reason == "NoOutcome", "3 is the user's data only if the record says so"


def test_a_rank_that_uploads_is_not_killed_when_another_leaves(start: Start) -> None:
    script = """
if me == 1: end(85)
wait_for_end = time.monotonic() + 1.5
moved = 0
while time.monotonic() < wait_for_end:
    moved += 1
    show(moved, 600, moved=moved, stage="evaluating"); time.sleep(0.02)
end(85, message="all is saved")
"""
    code, record = start(script, ranks=2, patience=0.5, FINETUNE_HANG_STEP_SECONDS="0.2").end()
    assert code == 85
    assert record is not None
    assert record.message == "rank 0: all is saved"


# --- a node that stands still ----------------------------------------------------------------------------------------
def test_a_node_without_a_sign_of_life_is_ended_and_named(start: Start) -> None:
    code, record = start("time.sleep(600)", ranks=2, FINETUNE_HANG_STAGE_SECONDS="0.4").end()
    assert code == 75
    assert record is not None
    assert (record.code, record.reason) == (ExitCode.TRANSIENT, "Hung")
    assert "while starting" in record.message
    assert "the next attempt resumes" in record.message


def test_the_rank_that_hangs_is_named_with_its_stage_and_step_and_says_where_it_stands(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
faulthandler.register(signal.SIGUSR2, file=open(f"{folder}/stacks-{os.environ['LOCAL_RANK']}", "wb"), all_threads=True)
def stuck_in_a_collective(): time.sleep(600)
show(1, 0.4 if me == 3 else 1.0, step=7)
if me == 2: time.sleep(0.3); show(2, 0.4, step=7)
stuck_in_a_collective()
"""
    code, record = start(
        script, ranks=2, FINETUNE_HANG_STEP_SECONDS="0.2", nodes=2, JOB_COMPLETION_INDEX="1", MASTER_ADDR="x"
    ).end()
    assert code == 75
    assert record is not None
    assert record.reason == "Hung"
    assert "rank 3 showed no sign of life" in record.message
    assert "while training after step 7" in record.message
    printed = capfd.readouterr().out
    assert "--- stacks of rank 2 ---" in printed
    assert printed.count("in stuck_in_a_collective") == 2


def test_what_a_rank_says_itself_beats_a_hang(start: Start) -> None:
    script = """
if me == 1: end(71)
time.sleep(600)
"""
    assert start(script, ranks=2, patience=600, FINETUNE_HANG_STAGE_SECONDS="0.4").end()[0] == 71


def test_a_supervisor_killed_by_the_kernel_leaves_no_record(start: Start) -> None:
    running = start("open(f'{folder}/../pid', 'w').write(str(os.getpid())); mark('ready'); time.sleep(600)")
    running.wait_for("ready-0")
    rank = int((running.scratch / "pid").read_text())
    running.process.kill()
    assert running.end() == (-signal.SIGKILL, None)
    os.kill(rank, signal.SIGKILL)


def test_orphans_are_reaped_and_workers_do_not_outlive_their_rank(start: Start) -> None:
    script = """
worker = os.fork()
if worker == 0: time.sleep(600)
open(f"{folder}/../worker", "w").write(str(worker))
end(0)
"""
    running = start(script)
    assert running.end()[0] == 0
    worker = int((running.scratch / "worker").read_text())
    until("the worker is gone", lambda: not _runs(worker), seconds=60)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _pending(pid: int, *signals: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = 0
    for line in lines:
        if line.startswith(("SigPnd", "ShdPnd")):
            mask |= int(line.split()[1], 16)
    return any(mask & (1 << (number - 1)) for number in signals)


def test_it_starts_at_once() -> None:
    """Neither torch nor boto3: seconds of start, and memory that PID 1 would hold for the whole training."""
    code = (
        "import sys, finetune_trainer.__main__, finetune_trainer.pod.supervisor\n"
        "print(*{'torch', 'boto3'}.intersection(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# --- the verdict -----------------------------------------------------------------------------------------------------
def ended(rank: int, status: int, *, record: int | None = None, reason: str = "R", ours: bool = False) -> RankEnd:
    left = None
    if record is not None:
        left = TerminationRecord(role="train", exit_code=record, reason=reason, message=f"of {rank}")
    return RankEnd(rank, status, left, ended_by_us=ours)


@pytest.mark.parametrize(
    ("ends", "stop_requested", "want_code", "want_in_message"),
    [
        pytest.param([ended(0, 0, record=0), ended(1, 0, record=0)], False, 0, "of 0", id="all succeeded"),
        pytest.param(
            [ended(0, 1, record=1, reason="CollectiveFailed"), ended(1, 71, record=71)],
            False,
            71,
            "rank 1",
            id="out of memory beats the broken collective of the others",
        ),
        pytest.param(
            [ended(0, 75, record=75), ended(1, 71, record=71)], False, 71, "rank 1", id="out of memory beats transient"
        ),
        pytest.param([ended(0, -9), ended(1, 3, record=3)], False, 3, "rank 1", id="a code beats a kill"),
        pytest.param(
            [ended(0, 85, record=85), ended(1, -9, ours=True)], True, 85, "of 0", id="our own kill decides nothing"
        ),
        pytest.param(
            [ended(0, 1, record=1, reason="CollectiveFailed"), ended(1, -9)],
            False,
            137,
            "rank 1",
            id="kill beats bug",
        ),
        pytest.param(
            [ended(0, 75, record=75, reason="CollectiveFailed"), ended(1, -9)],
            False,
            137,
            "raise spec.resources.memory",
            id="a kill beats the broken collective of the others",
        ),
        pytest.param(
            [ended(0, 75, record=75, reason="PeersUnreachable"), ended(1, 1, record=1, reason="InternalError")],
            False,
            1,
            "rank 1: of 1",
            id="a bug beats what followed from it",
        ),
        pytest.param(
            [ended(0, 75, record=75, reason="CollectiveFailed"), ended(1, 75, record=75)],
            False,
            75,
            "rank 1: of 1",
            id="a cause beats a consequence of the same code",
        ),
        pytest.param(
            [ended(0, 75, record=75, reason="CollectiveFailed"), ended(1, 75, record=75, reason="CollectiveFailed")],
            False,
            75,
            "rank 0: of 0",
            id="both lost another node",
        ),
        pytest.param(
            [ended(0, 1, record=1, reason="InternalError"), ended(1, -9, ours=True)],
            False,
            1,
            "rank 0: of 0",
            id="a bug, and the other rank ended by us",
        ),
        pytest.param([ended(0, -15), ended(1, -15)], True, 85, "before anything", id="asked to stop while starting"),
        pytest.param([ended(0, -15)], False, 143, "SIGTERM", id="a rank terminated by somebody else"),
        pytest.param([ended(0, -11)], True, 139, "SIGSEGV", id="a crash while stopping is a crash"),
        pytest.param(
            [ended(0, 0, record=0), ended(1, 0)],
            False,
            1,
            "rank 1",
            id="exit 0 without a word is no success",
        ),
        pytest.param(
            [ended(0, 0, record=0), ended(1, 75, record=75)], False, 75, "rank 1", id="one failure is a failure of all"
        ),
    ],
)
def test_the_decisive_end(
    tmp_path: Path, ends: Sequence[RankEnd], stop_requested: bool, want_code: int, want_in_message: str
) -> None:
    record = conclude(ends, stop_requested=stop_requested, folder=tmp_path)
    assert record.exit_code == want_code
    assert want_in_message in record.message


def test_results_are_those_of_rank_0_whoever_decides(tmp_path: Path) -> None:
    artifact = ArtifactResult(uri="s3://b/a", digest="sha256:0", bytes=1, files=1)
    first = TerminationRecord(role="train", exit_code=0, reason="Succeeded", message="m", artifact=artifact)
    ends = [RankEnd(0, 0, first), ended(1, 75, record=75)]
    progress = ProgressRecord(run=1, attempt=1, activity="done", step=9)
    outcome.progress_file(tmp_path).write_text(progress.model_dump_json())
    record = conclude(ends, stop_requested=False, folder=tmp_path)
    assert (record.exit_code, record.artifact) == (75, artifact)
    assert record.progress is not None
    assert record.progress.step == 9


@pytest.mark.parametrize(
    ("step", "saved", "killed", "want"),
    [
        pytest.param(9, 6, True, (75, "StoppedWithoutSave"), id="killed before it could save"),
        pytest.param(9, 9, True, (85, "R"), id="everything was saved"),
        pytest.param(9, 6, False, (85, "R"), id="its own word counts"),
        pytest.param(0, None, True, (85, "R"), id="nothing had been done"),
    ],
)
def test_a_stop_is_no_85_when_a_rank_was_killed_with_unsaved_steps(
    tmp_path: Path, step: int, saved: int | None, killed: bool, want: tuple[int, str]
) -> None:
    progress = ProgressRecord(run=1, attempt=1, activity="training", step=step, checkpoint_step=saved)
    outcome.progress_file(tmp_path).write_text(progress.model_dump_json())
    first = ended(0, -9, ours=True) if killed else ended(0, 85, record=85)
    record = conclude([first, ended(1, 85, record=85)], stop_requested=True, folder=tmp_path)
    assert (record.exit_code, record.reason) == want
    if killed and want[0] == 75:
        assert "steps 7 to 9 are not saved" in record.message


# --- a rank's share --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cpus", "ranks", "given", "want"),
    [
        pytest.param(8, 2, {}, "4", id="shared evenly"),
        pytest.param(2, 4, {}, "1", id="at least one"),
        pytest.param(8, 2, {"OMP_NUM_THREADS": "3"}, "3", id="what is set is kept"),
    ],
)
def test_threads_of_a_rank(cpus: int, ranks: int, given: dict[str, str], want: str) -> None:
    world = World(nodes=1, processes_per_node=ranks, gpus_per_node=0)
    assert rank_environment(world, 0, 0, given, cpus)["OMP_NUM_THREADS"] == want


def test_a_single_node_meets_on_itself() -> None:
    world = World(nodes=1, processes_per_node=1, gpus_per_node=0)
    assert rank_environment(world, 0, 0, {}, 1)["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("files", "want_at_most"),
    [
        pytest.param({"cpu.max": "100000 100000\n"}, 1, id="one CPU, cgroup v2"),
        pytest.param({"cpu.max": "50000 100000\n"}, 1, id="half a CPU still runs one thread"),
        pytest.param({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1, id="cgroup v1"),
        pytest.param({"cpu.max": "max 100000\n"}, 10_000, id="no limit, v2"),
        pytest.param({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 10_000, id="no limit, v1"),
        pytest.param({}, 10_000, id="no cgroup"),
    ],
)
def test_the_limit_of_the_pod_counts_not_the_node(tmp_path: Path, files: dict[str, str], want_at_most: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    visible = len(os.sched_getaffinity(0))
    assert available_cpus(tmp_path) == min(visible, want_at_most)
