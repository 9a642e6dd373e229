"""One start of one rank, from the first look at the bucket to the published result.

The only place that knows all the edges at once: it gives training its hooks and says in which order things happen.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.progress import Stage
from finetune_contract.termination import EvaluationResult, TerminationRecord
from finetune_trainer.artifacts import checkpoint, publish
from finetune_trainer.artifacts.checkpoint import CheckpointCallback, Uploads
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import StoppedAfterSave
from finetune_trainer.pod import outcome
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.preemption import PreemptCallback, StopRequest
from finetune_trainer.pod.progress import Progress, ProgressCallback, Server
from finetune_trainer.rank.collectives import Nodes, Ranks
from finetune_trainer.training import train
from finetune_trainer.training.hooks import Report, TrainerContext
from finetune_trainer.training.trainer import LogLines


class Start:
    """Implements `Hooks` for `train.run`."""

    def __init__(self, job: JobFile, scratch: Path, stop: StopRequest) -> None:
        self._job, self._scratch, self._stop = job, scratch, stop
        self._rank = int(os.environ.get("RANK", "0"))
        self._local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        folder = os.environ.get(outcome.ENV_OUTCOME_DIR)
        keeps_file = folder and self._rank == 0
        self.progress = Progress(job, file=outcome.progress_file(Path(folder)) if folder and keeps_file else None)
        self._metrics = Metrics(job)
        self._report: Report = _say if self._rank == 0 else _say_nothing
        self._storage = Storage.from_job(job, self._report)
        self._fence: Fence | None = None
        self._uploads: Uploads | None = None
        self._ranks: Ranks | None = None

    def run(self) -> TerminationRecord:
        server = Server(self._metrics, self.progress if self._rank == 0 else None)
        with server if self._local_rank == 0 else nullcontext():
            self.stage("starting")
            return self._run()

    def _run(self) -> TerminationRecord:
        job, storage = self._job, self._storage
        if self._rank == 0:
            storage.probe(job.spec.output.uri)
        found = publish.published(storage, job)
        if self._rank == 0:
            self._fence = Fence.take(
                storage,
                layout.epochs_uri(job.spec.output.uri, job.identity),
                attempt=job.attempt.number,
                pod=socket.gethostname(),
            )
        if found:
            return self._already_published(*found)
        try:
            result = train.run(job, storage, self._scratch, self)
        except StoppedAfterSave:
            if self._uploads:
                self._uploads.wait()  # the promise of its name, also when it came between two saves
            raise
        if self._uploads:
            self._uploads.wait()
        if self._fence is None:
            return outcome.success("train", f"rank {self._rank} is done; rank 0 publishes")
        self.stage("publishing")
        artifact = publish.publish(
            storage,
            job,
            publish.Result(
                result.directory,
                result.kind,
                step=result.metrics["steps"],
                provenance=result.provenance,
                metrics={**result.metrics, "evaluation": _document(result.evaluation)},
            ),
            self._fence,
            self._scratch,
        )
        self.stage("done")
        return outcome.success(
            "train",
            f"{artifact.uri} is published and verified",
            progress=self.progress.record,
            artifact=artifact,
            evaluation=result.evaluation,
        )

    def _already_published(self, manifest: Any, artifact: Any) -> TerminationRecord:
        self.stage("publishing")
        if self._fence is not None:
            publish.confirm(
                self._storage, self._job, artifact, self._scratch / "confirm", before_removal=self._fence.check
            )
        self.stage("done")
        evaluation = manifest.metrics.get("evaluation")
        return outcome.success(
            "train",
            f"{artifact.uri} was published by an earlier start of this run, and verifies",
            progress=self.progress.record.model_copy(update={"step": manifest.step, "total_steps": manifest.step}),
            artifact=artifact,
            evaluation=EvaluationResult.model_validate(evaluation) if evaluation else None,
        )

    # --- hooks ---------------------------------------------------------------------------------------------------

    def stage(self, stage: Stage) -> None:
        self._stop.enter(stage)
        self.progress.update(stage=stage)
        self._metrics.enter(stage)

    def callbacks(self, context: TrainerContext) -> Sequence[Any]:
        job, identity = self._job, self._job.identity
        context.trainer.remove_callback(LogLines)  # ours say the pace as well
        ranks = self._ranks = Ranks()
        nodes = Nodes(ranks)
        epoch = ranks.from_first(self._fence.epoch if self._fence else 0)
        if self._local_rank == 0:
            self._uploads = Uploads(
                self._storage,
                layout.checkpoints_uri(job.spec.output.uri, identity),
                keep=job.spec.checkpoint.keep,
                epoch=epoch,
                fence=self._fence,
                nodes=nodes,
                meta={
                    "uid": identity.uid,
                    "run": identity.run,
                    "attempt": job.attempt.number,
                    "provenance": {"worldSize": job.world.size, "configHash": identity.config_hash},
                },
                on_verified=checkpoint.note_verified(self.progress, self._metrics),
                report=self._report,
            )
        return (
            ProgressCallback(job, self.progress, self._metrics, speaks=self._rank == 0),
            CheckpointCallback(context.output_dir, self._uploads, ranks, self._metrics),
            PreemptCallback(self._stop, ranks, self._uploads.wait if self._uploads else _nothing),
        )

    def resume_from(self) -> Path | None:
        assert self._ranks is not None, "callbacks() comes first"
        if self._job.attempt.resume == "none":
            self._report(f"attempt {self._job.attempt.number} starts at step 0, as the operator asks")
            return None
        uri = layout.checkpoints_uri(self._job.spec.output.uri, self._job.identity)
        found = checkpoint.restore_on_all(self._storage, uri, self._scratch / "restored", self._ranks, self._report)
        self._note_lost_steps(found.step if found else 0)
        if found is None:
            self._report("no checkpoint of this run yet: starting at step 0")
            return None
        self._report(f"resuming from step {found.step}: {found.uri}")
        self.progress.update(step=found.step, checkpoint_step=found.step, checkpoint_uri=found.uri)
        if self._uploads:
            self._uploads.distrust(found.passed_over)
        return found.folder

    def _note_lost_steps(self, resumed_from: int) -> None:
        known = self._job.attempt.not_older_than_step
        if resumed_from < known:
            lost = f"steps {resumed_from + 1} to {known} are lost, because their checkpoint is gone or damaged"
            self._report(f"{lost}; they are done once more")
            self.progress.update(lost_steps=known - resumed_from)


def _document(evaluation: EvaluationResult | None) -> dict[str, Any] | None:
    return evaluation.model_dump(by_alias=True) if evaluation else None


def _say(line: str) -> None:
    print(line, flush=True)


def _say_nothing(line: str) -> None:
    """The other ranks would say the same."""


def _nothing() -> None:
    """A rank that uploads nothing waits at the barrier instead."""
