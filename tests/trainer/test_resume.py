"""P7: a training interrupted anyhow and anywhere resumes as if it never had been. P2: from the right checkpoint."""

import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.manifest import Manifest
from tests.trainer.starts import Runner, digests, losses

pytestmark = pytest.mark.races

STEPS = 12
EVERY = 3
KEEP = 2
SEED = random.SystemRandom().randrange(10**6)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"type": "lora", "lora": {"rank": 4, "dropout": 0.1}}},
    "qlora": {"method": {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 4}}},
    "bf16 with master copies": {
        "method": {"type": "lora", "lora": {"rank": 4}},
        "training": {"precision": "bf16"},
    },
    "full": {"method": {"type": "full"}},
}


@dataclass
class Reference:
    """What an uninterrupted training of this method gives."""

    manifest: Manifest
    operations: int


@pytest.fixture(scope="session")
def references(runner: Runner) -> dict[str, Reference]:
    return {}


def reference(runner: Runner, references: dict[str, Reference], method: str) -> Reference:
    if method not in references:
        job = job_of(runner, method)
        end = runner.start(job).end()
        assert end.status == 0, end.log
        assert end.operations
        references[method] = Reference(runner.verify_artifact(job), end.operations)
        assert [step for step, _ in losses(references[method].manifest)] == list(range(1, STEPS + 1))
    return references[method]


def job_of(runner: Runner, method: str) -> JobFile:
    spec: Mapping[str, Any] = METHODS[method]
    return runner.job({**spec, "checkpoint": {"everySteps": EVERY, "keep": KEEP}})


def assert_same(manifest: Manifest, want: Reference) -> None:
    assert dict(losses(manifest)) == pytest.approx(dict(losses(want.manifest)), abs=1e-6)
    assert len(losses(manifest)) == STEPS
    assert digests(manifest) == digests(want.manifest), "the weights differ in at least one bit"


@pytest.mark.parametrize("method", METHODS)
def test_a_training_stopped_on_request_resumes_as_if_never_interrupted(
    runner: Runner, references: dict[str, Reference], method: str
) -> None:
    want = reference(runner, references, method)
    job = job_of(runner, method)
    first = runner.start(job, gates=[{"step": 4}])
    with first.held():
        first.signal(signal.SIGTERM)
    end = first.end()
    assert end.status == 85, end.log
    assert end.record
    assert end.record.reason == "StoppedAfterSave"
    saved = runner.checkpoints(job)[0].step
    assert saved == 5, "the step that was under way is finished"
    assert f"at step {saved} of {STEPS}" in end.record.message

    second = runner.start(job).end()
    assert second.status == 0, second.log
    assert f"resuming from step {saved}" in second.log
    assert_same(runner.verify_artifact(job), want)


def test_a_training_stopped_again_and_again_still_finishes(runner: Runner, references: dict[str, Reference]) -> None:
    """Each of these starts does one step: nothing is ever done twice or left out."""
    want = reference(runner, references, "lora")
    job = job_of(runner, "lora")
    for step in range(1, 5):
        start = runner.start(job, gates=[{"activity": "training"}])
        with start.held():
            start.signal(signal.SIGTERM)
        end = start.end()
        assert end.status == 85, end.log
        assert runner.checkpoints(job)[0].step == step
    assert runner.start(job).end().status == 0
    assert_same(runner.verify_artifact(job), want)


def kill_points(count: int) -> list[Any]:
    chance = random.Random(SEED)
    return [pytest.param(chance.random(), id=f"point {point}") for point in range(count)]


def kill_and_resume(runner: Runner, references: dict[str, Reference], method: str, share: float) -> None:
    want = reference(runner, references, method)
    job = job_of(runner, method)
    point = 1 + int(share * want.operations)
    end = runner.start(job, die_at=point).end()
    where = f"seed {SEED}, {method}, operation {point} of {want.operations}"
    print(where)
    if end.status == 0:  # threads: the count of the last few operations is not always the same
        assert_same(runner.verify_artifact(job), want)
        return
    assert end.status == -signal.SIGKILL, f"{where}\n{end.log}"
    verified = [stored.step for stored in runner.checkpoints(job)]
    done = max((int(line.split("/")[0].split()[1]) for line in end.log.splitlines() if _is_progress(line)), default=0)
    published = runner.artifact(job) is not None

    second = runner.start(job, attempt=2).end()
    assert second.status == 0, f"{where}\n{second.log}"
    if published:
        assert "published by an earlier start" in (second.record.message if second.record else "")
    elif verified:
        assert f"resuming from step {max(verified)}" in second.log, where
    else:
        assert "starting at step 0" in second.log, where
    # One interval for the steps since the last save, one for a save whose upload was under way.
    assert done - max(verified, default=0) <= 2 * EVERY, where
    assert_same(runner.verify_artifact(job), want)


def _is_progress(line: str) -> bool:
    return line.startswith("step ") and "tok/s" in line


@pytest.mark.parametrize("share", kill_points(20))
def test_a_training_killed_anywhere_resumes_as_if_never_interrupted(
    runner: Runner, references: dict[str, Reference], share: float
) -> None:
    kill_and_resume(runner, references, "lora", share)


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("share", kill_points(100))
def test_a_training_killed_at_200_places(
    runner: Runner, references: dict[str, Reference], share: float, method: str
) -> None:
    kill_and_resume(runner, references, method, share)


def test_a_checkpoint_of_the_last_step_needs_no_further_step(runner: Runner, references: dict[str, Reference]) -> None:
    want = reference(runner, references, "lora")
    job = job_of(runner, "lora")
    assert runner.start(job).end().status == 0
    runner.s3.storage().delete_prefix(layout.artifact_uri(job.spec.output.uri, job.identity))
    again = runner.start(job).end()
    assert again.status == 0, again.log
    assert f"resuming from step {STEPS}" in again.log
    assert_same(runner.verify_artifact(job), want)


def test_a_training_killed_in_the_middle_of_a_step_resumes_as_if_never_interrupted(
    runner: Runner, references: dict[str, Reference]
) -> None:
    want = reference(runner, references, "lora")
    job = job_of(runner, "lora")
    first = runner.start(job, gates=[{"within_step": 8}])
    with first.held():
        first.signal(signal.SIGKILL)
    assert first.end().status == -signal.SIGKILL
    assert runner.start(job, attempt=2).end().status == 0
    assert_same(runner.verify_artifact(job), want)


# --- what the operator decided about an attempt ------------------------------------------------------------------
def test_steps_whose_checkpoint_is_gone_are_done_once_more_and_reported(
    runner: Runner, references: dict[str, Reference]
) -> None:
    want = reference(runner, references, "lora")
    job = job_of(runner, "lora")
    first = runner.start(job, gates=[{"checkpoint_step": 2 * EVERY}])
    with first.held():
        first.signal(signal.SIGKILL)
    first.end()
    newest, older = runner.checkpoints(job)[:2]
    runner.s3.storage().delete_prefix(newest.uri)

    end = runner.start(job, attempt=2, changes={"not_older_than_step": newest.step}).end()
    assert end.status == 0, end.log
    assert f"steps {older.step + 1} to {newest.step} are lost because their checkpoint is missing or damaged" in end.log
    assert f"resuming from step {older.step}" in end.log
    assert end.record
    assert end.record.progress
    assert end.record.progress.lost_steps == newest.step - older.step
    assert_same(runner.verify_artifact(job), want)


def test_an_attempt_that_resumes_from_none_starts_at_step_0(runner: Runner, references: dict[str, Reference]) -> None:
    want = reference(runner, references, "lora")
    job = job_of(runner, "lora")
    first = runner.start(job, gates=[{"checkpoint_step": EVERY}])
    with first.held():
        first.signal(signal.SIGKILL)
    first.end()
    assert runner.checkpoints(job)

    end = runner.start(job, attempt=2, changes={"resume": "none"}).end()
    assert end.status == 0, end.log
    assert "attempt 2 starts at step 0, as the operator requests" in end.log
    assert "resuming from" not in end.log
    assert_same(runner.verify_artifact(job), want)
