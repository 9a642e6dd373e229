"""A storage that does not take what the training produces: nothing is given up that may still be stored, and what is
lost is said. Each refusal is one of the real server, by a policy on the bucket."""

import signal
from contextlib import ExitStack
from typing import Any

import pytest

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from tests.trainer.starts import Runner, digests, losses

pytestmark = pytest.mark.races

EACH_STEP = {"checkpoint": {"everySteps": 1, "keep": 2}}
AT_ONCE = {"FINETUNE_UNSAVED_SECONDS": "0"}
IMPATIENT = {"FINETUNE_UNSAVED_SECONDS": "0", "FINETUNE_PAUSE_SECONDS": "0.5"}


def checkpoints_of(job: JobFile) -> str:
    return layout.checkpoints_uri(job.spec.output.uri, job.identity)


@pytest.mark.parametrize("nodes", [1, 2], ids=["one node", "two nodes"])
def test_an_upload_that_fails_does_not_end_the_training(runner: Runner, nodes: int) -> None:
    spec: dict[str, Any] = {"training": {"perDeviceBatchSize": 1}}
    whole = runner.job(spec, nodes=nodes)
    assert set(runner.start(whole).end().statuses) == {0}

    job = runner.job(spec, nodes=nodes)
    start = runner.start(job, gates=[{"checkpoint_step": 3}, {"step": 8}])
    with ExitStack() as refusal:
        with start.held():
            refusal.enter_context(runner.s3.denied(checkpoints_of(job)))
        with start.held():
            start.wait_for("the upload has failed", lambda _: "stays on disk" in start.log())
            assert [saved.step for saved in runner.checkpoints(job)] == [3]
    end = start.end()
    assert set(end.statuses) == {0}, end.log
    assert runner.checkpoints(job)[0].step == 12
    want, got = runner.verify_artifact(whole), runner.verify_artifact(job)
    assert digests(got) == digests(want)
    assert dict(losses(got)) == pytest.approx(dict(losses(want)), abs=1e-6)


def test_training_pauses_when_too_much_is_unsaved_and_goes_on_by_itself(runner: Runner) -> None:
    job = runner.job(EACH_STEP)
    start = runner.start(job, gates=[{"checkpoint_step": 1}], env=AT_ONCE)
    with ExitStack() as refusal:
        with start.held():
            refusal.enter_context(runner.s3.denied(checkpoints_of(job)))
        start.wait_for("it waits", lambda progress: progress.waiting)
        said = start.progress()
        assert said is not None
        assert said.step < 12
        assert "The checkpoint of step" in (said.waiting or "")
        assert "denied" in (said.waiting or "")
    end = start.end()
    assert end.status == 0, end.log
    assert end.record
    assert end.record.progress
    assert end.record.progress.waiting is None
    assert "the storage is back" in end.log


def test_a_storage_that_does_not_come_back_ends_the_training_with_the_steps_that_are_lost(runner: Runner) -> None:
    job = runner.job(EACH_STEP)
    start = runner.start(job, gates=[{"checkpoint_step": 1}], env=IMPATIENT)
    with ExitStack() as refusal:
        with start.held():
            refusal.enter_context(runner.s3.denied(checkpoints_of(job)))
        end = start.end()
    assert end.status == 75, end.log
    assert end.record
    assert end.record.reason == "CheckpointNotStored"
    progress = start.progress()
    assert progress
    assert progress.unsaved_steps
    first, last = progress.checkpoint_step or 0, (progress.checkpoint_step or 0) + progress.unsaved_steps
    assert f"steps {first + 1} to {last} are lost" in end.record.message
    assert "Traceback" not in end.log


def test_a_stop_that_could_not_save_says_what_is_lost(runner: Runner) -> None:
    job = runner.job()
    start = runner.start(job, gates=[{"checkpoint_step": 3}, {"step": 5}])
    with start.held():
        pass
    with runner.s3.denied(checkpoints_of(job)):
        with start.held():
            start.signal(signal.SIGTERM)
        end = start.end()
    assert end.status == 75, end.log
    assert end.record
    assert end.record.reason == "StoppedWithoutSave"
    progress = start.progress()
    assert progress
    assert progress.unsaved_steps
    assert f"stopped on request at step {3 + progress.unsaved_steps} of 12" in end.record.message
    assert [saved.step for saved in runner.checkpoints(job)] == [3]


def test_a_training_that_waits_for_the_storage_hears_a_stop(runner: Runner) -> None:
    job = runner.job(EACH_STEP)
    start = runner.start(job, gates=[{"checkpoint_step": 1}], env=AT_ONCE)
    with ExitStack() as refusal:
        with start.held():
            refusal.enter_context(runner.s3.denied(checkpoints_of(job)))
        start.wait_for("it waits", lambda progress: progress.waiting)
        start.signal(signal.SIGTERM)
        end = start.end()
    assert end.status == 75, end.log
    assert end.record
    assert end.record.reason == "StoppedWithoutSave"


# --- publishing ------------------------------------------------------------------------------------------------------
def test_publishing_waits_for_the_storage(runner: Runner) -> None:
    job = runner.job({"training": {"maxSteps": 2}})
    with runner.s3.denied(layout.artifact_uri(job.spec.output.uri, job.identity)):
        start = runner.start(job)
        start.wait_for("it waits", lambda progress: progress.waiting)
        assert runner.artifact(job) is None
    end = start.end()
    assert end.status == 0, end.log
    runner.verify_artifact(job)


def test_a_stop_while_publishing_waits_loses_nothing(runner: Runner) -> None:
    job = runner.job({"training": {"maxSteps": 2}})
    with runner.s3.denied(layout.artifact_uri(job.spec.output.uri, job.identity)):
        start = runner.start(job)
        start.wait_for("it waits", lambda progress: progress.waiting)
        start.signal(signal.SIGTERM)
        end = start.end()
    assert end.status == 85, end.log
    assert [saved.step for saved in runner.checkpoints(job)] == [2]
    assert runner.start(job, attempt=2).end().status == 0
    runner.verify_artifact(job)


def test_a_result_that_takes_too_long_after_a_stop_is_left_to_the_next_attempt(runner: Runner) -> None:
    job = runner.job({"training": {"maxSteps": 2}})
    start = runner.start(job, gates=[{"activity": "publishing"}], env={"FINETUNE_FINISH_SECONDS": "0.05"})
    with start.held():
        start.signal(signal.SIGTERM)
        end = start.end()
    assert end.status == 85, end.log
    assert [saved.step for saved in runner.checkpoints(job)] == [2]
