"""Runs inside a checkout of the release, under its pytest: trains a job once, and keeps what a pod leaves in S3.

`make_fixtures` copies this file there and starts it. It imports that version's modules, not today's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_operator.core.model import FineTuneJob, GpuClass, Role
from safetensors.torch import load_file, save_file

from finetune_operator.core.identity import run_hash
from finetune_operator.core.render.child import Child, job_file
from finetune_operator.core.world import plan_world
from tests.builders.jobs import make_class, make_job
from tests.builders.snapshots import DEFAULTS, OPTIONS
from tests.trainer.conftest import BUCKET, S3, s3
from tests.trainer.models import save_tiny_model
from tests.trainer.runs import write_rows

__all__ = ["s3"]  # the fixture

ENDPOINT = "http://s3.invalid"
"""In the files that are kept: the server's port is another one each time."""
PREFIX = "upgrade"
UID = "0b5a2f1e-7c1d-4a53-9f0a-1b2c3d4e5f60"
STEPS, EVERY = 6, 3


def test_record(s3: S3, tmp_path: Path) -> None:
    out = Path(os.environ["UPGRADE_FIXTURES"])
    client = s3.client()
    upload_inputs(client, tmp_path)
    job = stored_job()

    with TemporaryDirectory(prefix="scratch-") as scratch:  # its path is in the files: a short one of no machine
        prepared = run(s3, Path(scratch), out, job, Role.PREPARE, {})
        run(s3, Path(scratch), out, job, Role.TRAIN, prepared["prepared"])

    kept = download(client, out / "s3")
    history = losses(kept.pop("artifact"))
    assert [step for step, _ in history] == list(range(1, STEPS + 1))
    (out / "losses.json").write_text(json.dumps([loss for _, loss in history], indent=1) + "\n")
    (out / "finetunejob.json").write_text(json.dumps(job, indent=1) + "\n")


def upload_inputs(client: Any, folder: Path) -> None:
    model = with_distinct_tokens(save_tiny_model(folder / "model", layers=1, hidden=8))
    rows = write_rows(folder / "rows.jsonl")
    for path in (*sorted(model.iterdir()), rows):
        name = f"model/{path.name}" if path.parent == model else path.name
        client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=path.read_bytes())


def with_distinct_tokens(model: Path) -> Path:
    """Embeddings as far apart as trained ones: with those of a fresh model the loss hardly depends on the adapter."""
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"] *= 20
    save_file(tensors, weights, metadata={"format": "pt"})
    return model


def stored_job() -> dict[str, Any]:
    """A FineTuneJob as the API server of this version stores it."""
    there = f"s3://{BUCKET}/{PREFIX}"
    job = (
        make_job("faq")
        .having("model.source", f"{there}/model")
        .having("dataset.train", [{"source": f"{there}/rows.jsonl"}])
        .having("dataset.splitFraction", 0)
        .having("method", {"type": "lora", "lora": {"rank": 2, "alpha": 16, "dropout": 0.1}})
        .having("training.learningRate", 0.05)
        .having("training.maxSteps", STEPS)
        .having("training.epochs", 3)
        .having("training.perDeviceBatchSize", 2)
        .having("training.gradientAccumulationSteps", 2)
        .having("training.precision", "fp32")
        .having("training.loggingSteps", 1)
        .having("checkpoint.everySteps", EVERY)
        .having("evaluation.sampleAnswers", 0)
        .having("output.uri", f"{there}/out")
        .having("storage.endpoint", ENDPOINT)
        .build()
    )
    job["metadata"]["uid"] = UID
    return dict(job)


def run(s3: S3, folder: Path, out: Path, job: dict[str, Any], role: Role, prepared: dict[str, Any]) -> dict[str, Any]:
    """One pod of the job, from the file that this version's operator mounts; its termination record."""
    parsed, gpu_class = FineTuneJob(job), GpuClass.parse(make_class("cpu"))
    text = job_file(
        Child(
            job=parsed,
            role=role,
            run=1,
            number=1,
            config_hash=run_hash(job["spec"], DEFAULTS),
            world=plan_world(parsed.spec.resources, gpu_class),
            options=OPTIONS,
            gpu_class=gpu_class,
            prepared=prepared,
        )
    )
    (out / f"job-{role}.json").write_text(text + "\n")
    return run_trainer(s3, folder / str(role), role, text.replace(ENDPOINT, s3.endpoint))


def run_trainer(s3: S3, folder: Path, role: Role, text: str) -> dict[str, Any]:
    """As its pod runs it. One thread: with more, sums come in another order."""
    folder.mkdir()
    (folder / "job.json").write_text(text)
    environment = {
        **os.environ,
        "FINETUNE_JOB_FILE": str(folder / "job.json"),
        "FINETUNE_SCRATCH_DIR": str(folder / "scratch"),
        "FINETUNE_CREDENTIALS_DIR": str(s3.credentials()),
        "FINETUNE_TERMINATION_LOG": str(folder / "termination-log"),
        "FINETUNE_METRICS_PORT": "0",
        "HF_HOME": str(folder / "huggingface"),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    subprocess.run([sys.executable, "-m", "finetune_trainer", str(role)], env=environment, cwd=folder, check=True)
    return dict(json.loads((folder / "termination-log").read_text()))


def download(client: Any, into: Path) -> dict[str, bytes]:
    """What the test puts back: inputs, preparation, the checkpoint in the middle, and the fence. Not the result."""
    shutil.rmtree(into, ignore_errors=True)
    answer: dict[str, bytes] = {}
    for item in client.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/")["Contents"]:
        key = item["Key"].removeprefix(f"{PREFIX}/")
        body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        if key.startswith("out/faq-r1-"):
            if key.endswith("/manifest.json"):
                answer["artifact"] = body
        elif key not in {"out/latest.json", "out/.finetune/write-probe"} and f"/step-{STEPS:08d}" not in key:
            (into / key).parent.mkdir(parents=True, exist_ok=True)
            (into / key).write_bytes(body)
    return answer


def losses(manifest: bytes) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in json.loads(manifest)["metrics"]["lossHistory"]]
