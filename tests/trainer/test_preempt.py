"""SIGTERM: what a request to stop means depends on what the start is doing."""

import os
import signal
from collections.abc import Iterator
from typing import get_args

import pytest

from finetune_contract.progress import Activity
from finetune_trainer.errors import StoppedAfterSave
from finetune_trainer.pod.preemption import StopRequest
from tests.trainer.starts import Runner, digests, losses

pytestmark = pytest.mark.races


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


AT_ONCE: tuple[Activity, ...] = ("starting", "downloading", "loading", "evaluating")


@pytest.mark.parametrize("activity", AT_ONCE)
def test_a_request_ends_the_start_at_once_where_nothing_is_lost(stop: StopRequest, activity: Activity) -> None:
    stop.enter(activity)
    with pytest.raises(StoppedAfterSave, match=activity) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 85


@pytest.mark.parametrize("activity", [activity for activity in get_args(Activity) if activity not in AT_ONCE])
def test_a_request_does_not_interrupt_what_has_to_be_finished(stop: StopRequest, activity: Activity) -> None:
    stop.enter(activity)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested


def test_a_request_that_a_library_swallowed_counts_at_the_next_activity(stop: StopRequest) -> None:
    stop.enter("loading")
    with pytest.raises(StoppedAfterSave):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedAfterSave):
        stop.enter("evaluating")


def test_after_training_a_request_lets_the_result_be_published(stop: StopRequest) -> None:
    stop.enter("saving")
    os.kill(os.getpid(), signal.SIGTERM)
    stop.enter("publishing")
    stop.enter("done")


# --- whole starts ----------------------------------------------------------------------------------------------------
def test_before_the_first_step_there_is_nothing_to_save(runner: Runner) -> None:
    job = runner.job()
    start = runner.start(job, gates=[{"activity": "loading"}])
    with start.held():
        start.signal(signal.SIGTERM)
    end = start.end()
    assert end.status == 85, end.log
    assert end.record is not None
    assert "no step was lost" in end.record.message
    assert runner.checkpoints(job) == []


def test_a_second_request_during_the_save_changes_nothing(runner: Runner) -> None:
    job = runner.job()
    start = runner.start(job, gates=[{"step": 1}, {"checkpoint_step": 2}])
    with start.held():
        start.signal(signal.SIGTERM)
    with start.held():  # the thread of the upload waits here, and the training waits for it
        start.signal(signal.SIGTERM)
        start.signal(signal.SIGINT)
    end = start.end()
    assert end.status == 85, end.log
    assert end.record is not None
    assert [saved.step for saved in runner.checkpoints(job)] == [2], "the step that was under way is finished"
    assert "at step 2 of 12" in end.record.message


@pytest.mark.parametrize("activity", ["saving", "publishing"])
def test_after_the_last_step_the_result_is_published(runner: Runner, activity: Activity) -> None:
    job = runner.job({"training": {"maxSteps": 2}})
    start = runner.start(job, gates=[{"activity": activity}])
    with start.held():
        start.signal(signal.SIGTERM)
    end = start.end()
    assert end.status == 0, end.log
    runner.verify_artifact(job)


def test_one_rank_is_asked_to_stop_and_all_stop_at_the_same_step_and_resume_exactly(runner: Runner) -> None:
    """A drained node signals only its own pod."""
    spec = {"training": {"perDeviceBatchSize": 1, "maxSteps": 12}}
    whole = runner.job(spec, processes=2)
    reference = runner.start(whole).end()
    assert reference.statuses == [0, 0], reference.log

    job = runner.job(spec, processes=2)
    start = runner.start(job, gates=[{"step": 4}])
    with start.held():
        start.signal(signal.SIGTERM, ranks=slice(1, 2))
    end = start.end()
    assert end.statuses == [85, 85], end.log
    saved = runner.checkpoints(job)
    assert saved[0].step == 5
    files = {item.path for item in runner.s3.storage().list(saved[0].uri)}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files

    second = runner.start(job).end()
    assert second.statuses == [0, 0], second.log
    want, manifest = runner.verify_artifact(whole), runner.verify_artifact(job)
    assert dict(losses(manifest)) == pytest.approx(dict(losses(want)), abs=1e-6)
    assert digests(manifest) == digests(want)
