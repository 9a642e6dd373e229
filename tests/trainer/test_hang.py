"""A node that stands still: found by its silence, named with the stacks of all its ranks, and ended."""

import os
import signal
from pathlib import Path

import pytest

from dev.localcluster.waiting import until
from finetune_trainer.pod.watch import Hang, Watch, stacks
from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.heartbeat import Heart
from tests.trainer.starts import Runner

pytestmark = pytest.mark.races


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def heart(folder: Path, local_rank: int = 0) -> Heart:
    return Heart(heartbeat.file_of(folder, local_rank))


ME = os.getpid()
"""A process that exists."""


# --- how long a silence may be ---------------------------------------------------------------------------------------
def limit(folder: Path) -> float:
    sign = heartbeat.read(folder, 0)
    assert sign is not None
    return sign.limit_seconds


def test_the_first_step_has_the_patience_of_a_stage_and_the_others_that_of_steps(tmp_path: Path) -> None:
    beating = heart(tmp_path)
    beating.enter("training")
    assert limit(tmp_path) == 1800
    beating.step(1, now=1000.0)
    assert limit(tmp_path) == 1800, "one step says nothing about the next: it was compiled"
    beating.step(2, now=1001.0)
    assert limit(tmp_path) == 300


def test_slow_steps_may_be_silent_for_longer(tmp_path: Path) -> None:
    beating = heart(tmp_path)
    for number in range(60):
        beating.step(number, now=40.0 * number)
    assert limit(tmp_path) == 800


def test_the_median_is_that_of_the_last_50_steps(tmp_path: Path) -> None:
    beating, now = heart(tmp_path), 0.0
    for number in range(200):
        now += 100.0 if number < 140 else 1.0
        beating.step(number, now)
    assert limit(tmp_path) == 300


def test_a_save_between_steps_has_its_own_patience(tmp_path: Path) -> None:
    beating = heart(tmp_path)
    for number in range(3):
        beating.step(number, now=float(number))
    beating.enter("saving")
    assert limit(tmp_path) == 1800
    beating.enter("training")
    assert limit(tmp_path) == 300
    beating.step(3, now=5000.0)
    beating.step(4, now=5001.0)
    assert limit(tmp_path) == 300, "the save was no step"


def test_limits_are_lowered_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_HANG_STEP_SECONDS", "2")
    monkeypatch.setenv("FINETUNE_HANG_STAGE_SECONDS", "7")
    beating = heart(tmp_path)
    assert limit(tmp_path) == 7
    beating.step(1, now=0.0)
    beating.step(2, now=0.01)
    assert limit(tmp_path) == 2


# --- who stands still ------------------------------------------------------------------------------------------------
def test_a_rank_that_beats_is_alive(tmp_path: Path, clock: Clock) -> None:
    watch, beating = Watch(tmp_path, clock), heart(tmp_path)
    for _ in range(10):
        beating.beat()
        assert watch.look({ME: 0}) is None
        clock.now += 1000


def test_the_rank_that_fell_silent_first_is_named(tmp_path: Path, clock: Clock) -> None:
    watch, first, second = Watch(tmp_path, clock), heart(tmp_path, 0), heart(tmp_path, 1)
    both = {ME: 0, os.getppid(): 1}
    for beating in (first, second):
        beating.step(1, now=0.0)
        beating.step(2, now=1.0)
    watch.look(both)
    clock.now += 100
    first.beat()
    watch.look(both)
    clock.now += 250
    assert watch.look(both) is None, "rank 0 has been silent for 250 s only"
    clock.now += 51
    assert watch.look(both) == Hang(1, "training", 2, 401.0, 300.0)
    assert "rank 5 showed no sign of life for 401 s while training after step 2" in Hang(
        1, "training", 2, 401.0, 300.0
    ).describe(5)


def test_a_rank_that_waits_for_anothers_download_is_no_hang(tmp_path: Path, clock: Clock) -> None:
    watch, loading, waiting = Watch(tmp_path, clock), heart(tmp_path, 0), heart(tmp_path, 1)
    loading.enter("loading")
    waiting.enter("loading")
    for _ in range(20):
        loading.move()
        assert watch.look({ME: 0, os.getppid(): 1}) is None
        clock.now += 1000


def test_a_rank_that_never_said_anything_hangs_as_well(tmp_path: Path, clock: Clock) -> None:
    watch = Watch(tmp_path, clock)
    watch.look({2**22 + 1: 0})
    clock.now += 1801
    assert watch.look({2**22 + 1: 0}) == Hang(0, "starting", 0, 1801.0, 1800.0)


def test_ranks_that_have_ended_do_not_count(tmp_path: Path, clock: Clock) -> None:
    watch, publishing = Watch(tmp_path, clock), heart(tmp_path, 0)
    heart(tmp_path, 1)
    publishing.enter("publishing")
    watch.look({ME: 0, os.getppid(): 1})
    clock.now += 1801
    hang = watch.look({ME: 0})
    assert hang is not None
    assert hang.stage == "publishing"
    assert watch.look({}) is None


# --- real ranks ------------------------------------------------------------------------------------------------------
def test_a_dead_reader_of_one_rank_is_found_with_the_stacks_of_all(runner: Runner) -> None:
    """Rank 0 waits for something that never comes, rank 1 for rank 0 in a collective."""
    job = runner.job({"training": {"perDeviceBatchSize": 1}}, processes=2)
    limits = {"FINETUNE_HANG_STEP_SECONDS": "1", "FINETUNE_HANG_STAGE_SECONDS": "120"}
    start = runner.start(job, gates=[{"within_step": 8}], env=limits)
    running = {pid: rank for rank, pid in enumerate(start.pids)}
    watch = Watch(start.folder / "outcome-0")
    with start.held():
        hang = until("the hang is found", lambda: watch.look(running), seconds=300, pause=0.05)
        assert hang is not None
        assert (hang.stage, hang.step) == ("training", 7)
        found = stacks(start.folder / "outcome-0", running)
        assert "come_to" in found[0], "the place where rank 0 waits"
        assert "Thread" in found[0]
        assert "torch/distributed" in found[1] or "backward" in found[1], found[1]
        start.signal(signal.SIGKILL)
    assert start.end().statuses == [-signal.SIGKILL, -signal.SIGKILL]


def test_a_training_that_is_never_silent_is_never_found_hung(runner: Runner) -> None:
    job = runner.job({"dataset": {"splitFraction": 0.2}, "evaluation": {"sampleAnswers": 1}})
    start = runner.start(job)
    watch, signs = Watch(start.folder / "outcome-0"), set()

    def has_ended() -> bool:
        assert watch.look({start.pids[0]: 0}) is None
        sign = heartbeat.read(start.folder / "outcome-0", 0)
        signs.add(sign.stage if sign else "")
        return outcome_is_there(start.folder)

    until("it has ended", has_ended, seconds=300, pause=0.01)
    assert start.end().status == 0
    assert {"loading", "evaluating", "training"} <= signs


def outcome_is_there(folder: Path) -> bool:
    return (folder / "outcome-0" / "rank-0.json").exists()
