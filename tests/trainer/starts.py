"""Starts of a job on real S3, as a pod makes them one after another: each with a scratch folder of its own."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.kit.ports import ReservedPort
from dev.localcluster.daemons import read_stat
from dev.localcluster.waiting import until
from finetune_contract import layout
from finetune_contract.jobspec import JobFile, Prepared
from finetune_contract.manifest import MANIFEST_NAME, Manifest
from finetune_contract.progress import ProgressRecord
from finetune_contract.termination import TerminationRecord
from finetune_trainer.artifacts import checkpoints, manifests
from finetune_trainer.pod import outcome
from tests.trainer.conftest import S3
from tests.trainer.runs import _small as small
from tests.trainer.runs import write_rows


class ForkServer:
    """See `forks`."""

    def __init__(self, folder: Path) -> None:
        with (folder / "fork-server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.trainer.forks"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu"},
            )
        assert self._answer() == {"ready": True}

    def fork(self, **order: Any) -> int:
        return int(self._ask(order)["pid"])

    def wait(self, pid: int) -> int:
        """Exit code, or minus the signal."""
        return int(self._ask({"wait": pid})["status"])

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the fork server is gone"
        return dict(json.loads(line))


@dataclass
class End:
    """What a start left behind."""

    statuses: list[int]
    record: TerminationRecord | None
    log: str
    operations: int | None

    @property
    def status(self) -> int:
        return self.statuses[0]


@dataclass
class Running:
    server: ForkServer
    pids: list[int]
    folder: Path
    gates: list[Path]
    port: ReservedPort

    @contextmanager
    def held(self) -> Iterator[None]:
        """While rank 0 waits at its next gate; it continues afterwards."""
        gate = self._arrival_at(self.gates.pop(0))
        try:
            yield
        finally:
            os.close(gate)

    def _arrival_at(self, fifo: Path) -> int:
        def arrive() -> int | None:
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody waits at the other end yet
                    raise
            assert _runs(self.pids[0]), f"rank 0 ended before it came to {fifo.name}; the log:\n{self.log()}"
            return None

        return until(f"rank 0 comes to {fifo.name}", arrive, seconds=500, pause=0.01, explain=self.log)

    def signal(self, number: signal.Signals, *, ranks: slice = slice(None)) -> None:
        for pid in self.pids[ranks]:
            os.kill(pid, number)

    def end(self) -> End:
        """Record and log are those of rank 0."""
        statuses = [self.server.wait(self.pids[0])]
        if statuses[0] not in {0, 85}:
            self.signal(signal.SIGKILL, ranks=slice(1, None))  # as the supervisor would: they wait for rank 0
        statuses += [self.server.wait(pid) for pid in self.pids[1:]]
        operations = self.folder / "log-0.operations"
        return End(
            statuses,
            outcome.read_record(outcome.rank_file(self.folder / "outcome-0", 0)),
            self.log(),
            int(operations.read_text()) if operations.exists() else None,
        )

    def progress(self) -> ProgressRecord | None:
        """What rank 0 says of itself."""
        return outcome.read_progress(self.folder / "outcome-0")

    def wait_for(self, what: str, so: Callable[[ProgressRecord], object]) -> None:
        """Until rank 0 says something that is `so`."""

        def says() -> bool:
            progress = self.progress()
            assert _runs(self.pids[0]), f"rank 0 ended before {what}; the log:\n{self.log()}"
            return progress is not None and bool(so(progress))

        until(what, says, seconds=300, pause=0.02, explain=self.log)

    def log(self) -> str:
        return (self.folder / "log-0").read_text()


@dataclass
class Runner:
    """Makes jobs and starts them. One model and one preparation serve all tests of a session."""

    s3: S3
    server: ForkServer
    folder: Path
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def job(self, spec: Mapping[str, Any] | None = None, *, nodes: int = 1, processes: int = 1) -> JobFile:
        """12 steps, a checkpoint each 3, all of it exact; prepared."""
        number = next(self._numbers)
        model, rows = self.folder / "model", self.folder / "rows.jsonl"
        if not model.exists():
            write_rows(rows)
            pid = self.server.fork(do="model", folder=str(model), env={}, log=str(self.folder / "model.log"))
            assert self.server.wait(pid) == 0, (self.folder / "model.log").read_text()
        given = dict(spec or {})
        wanted = {
            **given,
            "checkpoint": {"everySteps": 3, **given.get("checkpoint", {})},
            "training": {"epochs": 3, "maxSteps": 12, "gradientAccumulationSteps": 1, **given.get("training", {})},
        }
        job = self.s3.job(small(wanted), model=model, train=rows, nodes=nodes, processes=processes)
        identity = job.identity.model_copy(update={"uid": f"{number:08d}-7c1d-4a53-9f0a-1b2c3d4e5f60"})
        return self._with_rows(job.model_copy(update={"identity": identity}))

    def _with_rows(self, job: JobFile) -> JobFile:
        kind = job.spec.dataset.model_dump_json()
        if kind not in self._prepared:
            end = self.start(job, do="prepare").end()
            log = (self._last / "termination").read_text()
            record = TerminationRecord.parse(log)
            assert record, end.log
            assert record.prepared, end.log
            self._prepared[kind] = Prepared(uri=record.prepared.uri, digest=record.prepared.digest)
        return job.model_copy(update={"prepared": self._prepared[kind]})

    def start(
        self,
        job: JobFile,
        *,
        do: str = "rank",
        die_at: int | None = None,
        attempt: int = 1,
        changes: Mapping[str, Any] | None = None,
        gates: Sequence[Mapping[str, Any]] = (),
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Every rank of every node, each node with a scratch folder of its own, as a pod has.

        Args:
            changes: of the attempt's settings.
            gates: places where rank 0 waits for `Running.held`, in order: `{"activity": "loading"}`, `{"step": 4}`
                (or any other field of the progress record) as soon as the record says so, and `{"within_step": 8}`
                when its gradients are computed and no parameter has changed.
            env: of all ranks, beside what the pod sets.
        """
        settings = job.attempt.model_copy(update={"number": attempt, **(changes or {})})
        folder = self._last = self.folder / f"start-{next(self._numbers)}"
        folder.mkdir()
        (folder / "job.json").write_text(job.model_copy(update={"attempt": settings}).render())
        ranks = job.world.size if do == "rank" else 1
        per_node = min(ranks, job.world.processes_per_node)
        port = ReservedPort()
        fifos = [folder / f"gate-{number}" for number in range(len(gates))]
        for fifo in fifos:
            os.mkfifo(fifo)
        pids = [
            self.server.fork(
                do=do,
                log=str(folder / f"log-{rank}"),
                die_at=die_at,
                gates=[] if rank else list(zip(gates, map(str, fifos), strict=True)),
                env={
                    "FINETUNE_CREDENTIALS_DIR": str(self.s3.credentials()),
                    "FINETUNE_JOB_FILE": str(folder / "job.json"),
                    "FINETUNE_SCRATCH_DIR": str(folder / f"scratch-{rank // per_node}"),
                    "FINETUNE_TERMINATION_LOG": str(folder / "termination"),
                    "FINETUNE_OUTCOME_DIR": str(_made(folder / f"outcome-{rank // per_node}")),
                    "FINETUNE_METRICS_PORT": "0",
                    "FINETUNE_STORAGE_BUDGET_SECONDS": "30",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank % per_node),
                    "WORLD_SIZE": str(ranks),
                    "LOCAL_WORLD_SIZE": str(per_node),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port.number),
                    **(env or {}),
                },
            )
            for rank in range(ranks)
        ]
        return Running(self.server, pids, folder, fifos, port)

    # --- what lies in S3 -----------------------------------------------------------------------------------------

    def checkpoints(self, job: JobFile) -> list[checkpoints.StoredCheckpoint]:
        """Complete ones, newest first."""
        uri = layout.checkpoints_uri(job.spec.output.uri, job.identity)
        return [item for item in checkpoints.list_checkpoints(self.s3.storage(), uri) if item.has_manifest]

    def artifact(self, job: JobFile) -> Manifest | None:
        return manifests.load_valid(self.s3.storage(), layout.artifact_uri(job.spec.output.uri, job.identity))

    def verify_artifact(self, job: JobFile) -> Manifest:
        """Downloaded and hashed."""
        into = self.folder / f"artifact-{next(self._numbers)}"
        uri = layout.artifact_uri(job.spec.output.uri, job.identity)
        manifest = manifests.fetch(self.s3.storage(), uri, into)
        assert (into / MANIFEST_NAME).exists()
        return manifest


def _runs(pid: int) -> bool:
    """The fork server collects it only when asked to."""
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def losses(manifest: Manifest) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in manifest.metrics["lossHistory"]]


def digests(manifest: Manifest) -> dict[str, str]:
    """Of the weights: what training alone decides."""
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}
