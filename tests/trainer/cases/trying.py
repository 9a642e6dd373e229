"""Tries a case as a pod would: prepared, then trained and published on real S3, by the commands themselves.

A case is a folder under `inputs/`: rows, and `case.json` with `title`, `source` (the public report), `model` (a
function of `models`), `data`, `evaluation`, `spec` (over `SMALL`), `processes`. The commands run in forks of one
process that has imported everything (`tests.trainer.forks`): a try takes a second or two.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import JobFile, Prepared
from finetune_contract.manifest import Manifest
from finetune_contract.termination import TerminationRecord
from finetune_trainer.artifacts import manifests
from finetune_trainer.prepare import store
from tests.trainer.builders import _merge as merge
from tests.trainer.cases import models
from tests.trainer.starts import End, Runner

INPUTS = Path(__file__).parent / "inputs"
SMALL: Mapping[str, Any] = {
    "evaluation": {"sampleAnswers": 0},
    "checkpoint": {"everySteps": 1000},
    "dataset": {"splitFraction": 0},
    "training": {
        "learningRate": 1e-2,
        "precision": "fp32",
        "epochs": 2,
        "perDeviceBatchSize": 2,
        "gradientAccumulationSteps": 1,
        "gradientCheckpointing": False,
        "loggingSteps": 1,
    },
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    record: TerminationRecord
    log: str

    @property
    def code(self) -> int:
        """1 is a bug of ours, whatever the input."""
        return self.record.exit_code

    @property
    def crashed(self) -> bool:
        return self.code == 1 or "Traceback (most recent call last)" in self.log


@dataclass
class Try:
    """One job on its way. `prepare()` first; `train()` needs it to have succeeded."""

    runner: Runner
    job: JobFile
    model: Path
    prepared: Ended | None = field(default=None, init=False)

    def prepare(self) -> Ended:
        running = self.runner.start(self.job, do="prepare")
        end = running.end()
        record = TerminationRecord.parse((running.folder / "termination").read_text())
        assert record is not None, end.log
        self.prepared = Ended(record, end.log)
        if record.prepared:
            rows = Prepared(uri=record.prepared.uri, digest=record.prepared.digest)
            self.job = self.job.model_copy(update={"prepared": rows})
        return self.prepared

    def train(self) -> Ended:
        """Rank 0's end. The supervisor has tests of its own."""
        if self.prepared is None:
            self.prepare()
        assert self.job.prepared, f"not prepared: {self.prepared}"
        end: End = self.runner.start(self.job).end()
        assert end.record is not None, end.log
        return Ended(end.record, end.log)

    def rows(self) -> store.PreparedRows:
        """The prepared rows, read as the training reads them."""
        assert self.job.prepared
        into = self.runner.folder / f"rows-{uuid.uuid4().hex}"
        into.mkdir()
        manifests.fetch(self.runner.s3.storage(), self.job.prepared.uri, into)
        return store.read(into)

    def texts(self) -> list[str]:
        """The training rows as the model sees them."""
        tokenizer = self.tokenizer()
        return [tokenizer.decode(row.ids) for row in self.rows().train]

    def learned(self) -> list[list[str]]:
        """For each training row its runs of supervised tokens, as text."""
        tokenizer, learned = self.tokenizer(), []
        for row in self.rows().train:
            runs: list[list[int]] = [[]]
            for token, supervised in zip(row.ids.tolist(), row.supervised.tolist(), strict=True):
                if supervised:
                    runs[-1].append(token)
                elif runs[-1]:
                    runs.append([])
            learned.append([tokenizer.decode(run) for run in runs if run])
        return learned

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        if self.model.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(self.model.parent, gguf_file=self.model.name)
        return AutoTokenizer.from_pretrained(self.model)

    def artifact(self) -> Manifest | None:
        """What is published."""
        return self.runner.artifact(self.job)

    def download(self) -> Path:
        """The published result in a folder, its digests verified."""
        from finetune_contract import layout

        into = self.runner.folder / f"result-{uuid.uuid4().hex}"
        manifests.fetch(
            self.runner.s3.storage(), layout.artifact_uri(self.job.spec.output.uri, self.job.identity), into
        )
        return into


@dataclass(frozen=True)
class Bench:
    """Makes tries. Models are built on first use, once per session."""

    runner: Runner
    models: Path

    def case(self, name: str) -> Try:
        """A folder under `inputs/`."""
        folder = INPUTS / name
        case = json.loads((folder / "case.json").read_text())
        spec = dict(case.get("spec", {}))
        if case.get("evaluation"):
            evaluation = {"evaluation": {"source": f"file://{folder / case['evaluation']}"}}
            spec["dataset"] = {**spec.get("dataset", {}), **evaluation}
        return self.of(folder / case["data"], spec, model=case.get("model", "tiny"), processes=case.get("processes", 1))

    def of(
        self, data: Path, spec: Mapping[str, Any] | None = None, *, model: str | Path = "tiny", processes: int = 1
    ) -> Try:
        """Any rows on any model: one of `models` by its name, or a folder."""
        place = models.get(model, self.models) if isinstance(model, str) else model
        job = self.runner.s3.job(merge(SMALL, spec or {}), model=place, train=data, processes=processes)
        identity = job.identity.model_copy(update={"uid": str(uuid.uuid4())})
        return Try(self.runner, job.model_copy(update={"identity": identity}), place)
