"""A run that a released trainer began: today's finishes it by the rules that it began with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_contract.jobspec import Attempt, JobFile
from finetune_operator.core.objects import FineTuneJob, GpuClass
from finetune_operator.core.render.child import Child
from finetune_operator.core.render.jobfile import render_job_file
from finetune_operator.core.stages import PREPARE, STAGES, TRAIN, Stage
from finetune_operator.core.world import plan_world
from tests.builders.jobs import make_class
from tests.builders.snapshots import OPTIONS
from tests.trainer.conftest import BUCKET, S3
from tests.trainer.starts import ForkServer
from tests.upgrade.released import FIXTURES

PREFIX = "upgrade"
ENDPOINT = "http://s3.invalid"
"""In the fixtures, for the server of this session."""
LOSSES: list[float] = json.loads((FIXTURES / "losses.json").read_text())
SAVED_AT = 3
TOLERANCE = 1e-6
"""Relative, of a loss: sums of another processor differ by less, another order of rows by a thousand times as much."""


@dataclass(frozen=True)
class Bucket:
    """What the release left in S3, put back for one test."""

    s3: S3

    def put_back(self, *, checkpoint: bool) -> None:
        self.s3.storage().delete_prefix(f"s3://{BUCKET}/{PREFIX}")
        for path in sorted(path for path in (FIXTURES / "s3").rglob("*") if path.is_file()):
            key = path.relative_to(FIXTURES / "s3").as_posix()
            if checkpoint or "/runs/" not in key:
                self.s3.client().put_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}", Body=path.read_bytes())

    def keys(self) -> set[str]:
        listed = self.s3.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/")
        return {item["Key"] for item in listed["Contents"]}

    def result(self) -> Any:
        """The manifest of the one result that is published."""
        [key] = [
            key for key in self.keys() if key.startswith(f"{PREFIX}/out/faq-r1-") and key.endswith("manifest.json")
        ]
        return json.loads(self.s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return Bucket(s3)


def released_file(stage: Stage) -> str:
    """Of attempt 2, as the release's operator wrote it."""
    document = json.loads((FIXTURES / f"job-{stage.role}.json").read_text())
    document["identity"]["attempt"] = 2
    return json.dumps(document)


def todays_file(stage: Stage) -> str:
    """Of attempt 2, as today's operator writes it for the object that the release stored."""
    job, gpu_class = FineTuneJob(json.loads((FIXTURES / "finetunejob.json").read_text())), GpuClass.parse(make_class())
    before = json.loads((FIXTURES / f"job-{stage.role}.json").read_text())
    return render_job_file(
        Child(
            job=job,
            stage=stage,
            run=1,
            attempt=Attempt(number=2, reason="NodeLost", resume="newest" if stage is TRAIN else "none"),
            config_hash=before["identity"]["configHash"],
            world=plan_world(job.spec.resources, gpu_class),
            options=OPTIONS,
            gpu_class=gpu_class,
            prepared=before.get("prepared", {}),
        )
    )


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.role)
def test_the_trainer_reads_the_golden_job_file_of_the_release(stage: Stage) -> None:
    job = JobFile.parse((FIXTURES / "golden" / f"job-{stage.role}-v1.json").read_text())
    assert (job.identity.uid, job.identity.run) == ("uid-of-job", 1)
    assert job.spec.training.learning_rate == pytest.approx(2e-4)
    assert (job.prepared is not None) == (stage is TRAIN)


FILES = [
    pytest.param(released_file, id="with the job file of the release"),
    pytest.param(todays_file, id="with the job file of today's operator"),
]


@dataclass
class Trainer:
    """Starts of today's trainer, each as a pod makes it."""

    s3: S3
    server: ForkServer
    folder: Path

    def run(self, stage: Stage, text: str) -> str:
        """To its end; returns the log."""
        (self.folder / "outcome").mkdir()
        (self.folder / "job.json").write_text(text.replace(ENDPOINT, self.s3.endpoint))
        environment = {
            "FINETUNE_JOB_FILE": str(self.folder / "job.json"),
            "FINETUNE_SCRATCH_DIR": str(self.folder / "scratch"),
            "FINETUNE_CREDENTIALS_DIR": str(self.s3.credentials()),
            "FINETUNE_TERMINATION_LOG": str(self.folder / "termination-log"),
            "FINETUNE_OUTCOME_DIR": str(self.folder / "outcome"),
            "FINETUNE_METRICS_PORT": "0",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }
        log = self.folder / "log"
        pid = self.server.fork(do="rank" if stage is TRAIN else "prepare", log=str(log), env=environment)
        assert self.server.wait(pid) == 0, log.read_text()
        return log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def trainer(s3: S3, server: ForkServer, tmp_path: Path) -> Trainer:
    return Trainer(s3, server, tmp_path)


def losses(manifest: Any) -> list[float]:
    history = manifest["metrics"]["lossHistory"]
    assert [entry["step"] for entry in history] == list(range(1, len(history) + 1))
    return [entry["loss"] for entry in history]


@pytest.mark.parametrize("file", FILES)
def test_a_run_resumes_from_the_checkpoint_of_the_release(trainer: Trainer, bucket: Bucket, file: Any) -> None:
    bucket.put_back(checkpoint=True)
    log = trainer.run(TRAIN, file(TRAIN))
    assert f"resuming from step {SAVED_AT}" in log
    result = bucket.result()
    assert losses(result) == pytest.approx(LOSSES, rel=TOLERANCE)
    assert (result["run"], result["attempt"], result["step"]) == (1, 2, len(LOSSES))


@pytest.mark.parametrize("file", FILES)
def test_a_run_that_the_release_prepared_is_trained_as_by_the_release(
    trainer: Trainer, bucket: Bucket, file: Any
) -> None:
    bucket.put_back(checkpoint=False)
    assert "starting at step 0" in trainer.run(TRAIN, file(TRAIN))
    assert losses(bucket.result()) == pytest.approx(LOSSES, rel=TOLERANCE)


@pytest.mark.parametrize("file", FILES)
def test_a_new_preparation_of_the_same_inputs_leaves_the_rows_of_the_release_alone(
    trainer: Trainer, bucket: Bucket, file: Any
) -> None:
    """Answers are found more exactly now: a new run gets rows of its own, one that goes on keeps its rows."""
    bucket.put_back(checkpoint=False)
    before = bucket.keys()
    assert "reusing prepared rows" not in trainer.run(PREPARE, file(PREPARE))
    made = {key for key in bucket.keys() - before if "/prepared/" in key}
    assert len({key.partition("/prepared/")[2].split("/")[0] for key in made}) == 1
    assert before <= bucket.keys()
