"""Trains a job in a test: in this process, or in several as the supervisor starts them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.kit.ports import ReservedPort
from dev.localcluster.waiting import until
from finetune_contract.jobspec import JobFile, Prepared
from finetune_trainer.prepare import preparation
from finetune_trainer.training import train
from finetune_trainer.training.result import TrainResult
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.hooks import NoHooks

ROWS = [
    ("How long does a building permit take?", "The usual time is ten weeks."),
    ("What does an architect do?", "An architect draws plans."),
    ("Is a loft conversion allowed?", "Ask the municipality first."),
    ("May the roof become higher?", "The roof may not become higher."),
    ("Who asks for permits?", "An architect asks for permits and looks after the work."),
    ("What is a complex case?", "A complex case takes twenty weeks."),
    ("Who is a helpful assistant?", "You are."),
    ("What does an architect draw?", "Plans for the work, and for the roof."),
    ("How long does a complex case take?", "Twenty weeks, and the usual time is ten."),
    ("Who looks after the work?", "The architect looks after the work."),
]


def write_rows(path: Path, rows: list[tuple[str, str]] | None = None) -> Path:
    """An alpaca .jsonl file."""
    lines = [json.dumps({"instruction": question, "output": answer}) for question, answer in rows or ROWS]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Bench:
    """A place to train in: model, rows and storage."""

    root: Path
    model: Path
    rows: Path

    @property
    def storage(self) -> FolderStorage:
        return FolderStorage(self.root / "s3")

    def job(self, spec: Mapping[str, Any] | None = None, **options: Any) -> JobFile:
        """A job that is prepared already; small and exact (fp32) unless it says otherwise."""
        job = make_job(_small(spec or {}), model=self.model, train=self.rows, **options)
        result = preparation.run(job, self.storage, self.root / "prepare", lambda line: None)
        prepared = Prepared(uri=result.uri, digest=result.digest)
        return job.model_copy(update={"prepared": prepared})

    def train(self, job: JobFile, name: str = "run", hooks: NoHooks | None = None) -> TrainResult:
        return train.run(job, self.storage, self.root / name, hooks or NoHooks())

    def train_in_processes(self, job: JobFile, name: str, count: int, resume: Path | None = None) -> dict[str, Any]:
        """Trains with `count` ranks; returns what rank 0 reports: losses, evaluation, directory."""
        scratch = self.root / name
        scratch.mkdir(parents=True)
        (scratch / "job.json").write_text(job.render())
        order = {"root": str(self.root), "scratch": str(scratch), "resume": resume and str(resume)}
        port, logs = ReservedPort(), [scratch / f"log-{rank}" for rank in range(count)]
        world = {
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port.number),
            "OMP_NUM_THREADS": "1",
        }
        ranks = []
        for rank, file in enumerate(logs):
            with file.open("wb") as log:  # the process has it too
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.trainer.rank", json.dumps(order)],
                    env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    cwd=Path(__file__).parents[2],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            ranks.append(process)
        try:
            until("all ranks have ended, or one has failed", lambda: _have_ended(ranks), seconds=500, pause=0.1)
        finally:
            for process in ranks:
                process.kill()  # one that waits for another that has failed
        codes = [process.wait() for process in ranks]
        said = "\n".join(
            f"--- rank {rank} ended with {codes[rank]} ---\n{logs[rank].read_text()}" for rank in range(count)
        )
        assert codes == [0] * count, said
        return dict(json.loads((scratch / "report.json").read_text()))


def _have_ended(ranks: list[subprocess.Popen[bytes]]) -> bool:
    codes = [process.poll() for process in ranks]
    return None not in codes or any(codes)


def losses(result: TrainResult) -> list[float]:
    return [entry["loss"] for entry in result.metrics["lossHistory"]]


def _small(spec: Mapping[str, Any]) -> dict[str, Any]:
    training = {
        "learningRate": 1e-2,
        "precision": "fp32",
        "epochs": 2,
        "perDeviceBatchSize": 2,
        "gradientAccumulationSteps": 2,
        "gradientCheckpointing": False,
        "loggingSteps": 1,
    }
    return {
        "evaluation": {"sampleAnswers": 0},
        "checkpoint": {"everySteps": 1000},
        **spec,
        "dataset": {"splitFraction": 0, **spec.get("dataset", {})},
        "training": {**training, **spec.get("training", {})},
    }
