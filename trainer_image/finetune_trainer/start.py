"""One start of one rank, from the first look at the bucket to the published result.

The only place that knows the pod, the artifacts and the training at once: it gives training its hooks.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.manifest import Manifest
from finetune_contract.progress import Activity
from finetune_contract.termination import ArtifactResult, EvaluationResult, TerminationRecord
from finetune_trainer.artifacts import publish, restoring
from finetune_trainer.artifacts.checkpoints import Owner
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.patience import Patience, until_stored
from finetune_trainer.artifacts.saving import CheckpointCallback
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.artifacts.uploads import Uploads
from finetune_trainer.errors import (
    AcceleratorOutOfMemory,
    StoppedAfterSave,
    StoppedWithoutSave,
    Superseded,
    TrainerError,
)
from finetune_trainer.pod import outcome
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.liveness import LivenessCallback
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.pace import PaceCallback
from finetune_trainer.pod.preemption import PreemptCallback, StopRequest
from finetune_trainer.pod.record_keeper import RecordKeeper
from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.collectives import Nodes, Ranks, part
from finetune_trainer.rank.device import Process, peak_memory_bytes
from finetune_trainer.rank.reporting import from_rank_zero
from finetune_trainer.training import train
from finetune_trainer.training.result import TrainResult


class Start:
    """Implements `Hooks` for `train.run`."""

    def __init__(self, job: JobFile, scratch: Path, stop: StopRequest) -> None:
        self._job, self._scratch, self._stop = job, scratch, stop
        self._process = Process.from_environment()
        folder = os.environ.get(outcome.ENV_OUTCOME_DIR)
        file = outcome.progress_file(Path(folder)) if folder and self._process.is_first else None
        self._keeper = RecordKeeper(job, file=file)
        self._metrics = Metrics(job)
        self._report = from_rank_zero(self._process.rank)
        self._storage = Storage.from_job(job, self._report)
        self._fence: Fence | None = None
        self._uploads: Uploads | None = None
        self._ranks: Ranks | None = None

    def run(self) -> TerminationRecord:
        endpoint = Endpoint(self._metrics, self._keeper if self._process.is_first else None)
        with endpoint if self._process.is_first_of_node else nullcontext():
            self.enter("starting")
            try:
                return self._run()
            except AcceleratorOutOfMemory as error:
                raise self._located(error) from error

    def _located(self, error: AcceleratorOutOfMemory) -> AcceleratorOutOfMemory:
        """With what the start was doing, and the most memory that it had in use."""
        peak = f"{peak_memory_bytes() / 2**30:.1f} GiB"
        where = f"while {self._keeper.record.activity}, peak memory {peak}"
        return AcceleratorOutOfMemory(f"{error.message} ({where})", reason=error.reason)

    def _run(self) -> TerminationRecord:
        job, storage = self._job, self._storage
        if self._process.is_first:
            storage.probe(job.spec.output.uri)
        found = publish.published(storage, job)
        if self._process.is_first:
            tokens = layout.fencing_tokens_uri(job.spec.output.uri, job.identity)
            self._fence = Fence.take(storage, tokens, attempt=job.attempt.number, pod=socket.gethostname())
        if found:
            return self._already_published(*found)
        result = self._train()
        if self._fence is None:
            return outcome.success("train", f"rank {self._process.rank} is done; rank 0 publishes")
        return self._publish(result, self._fence)

    def _train(self) -> TrainResult:
        try:
            result = train.run(self._job, self._storage, self._scratch, self)
            if self._uploads:
                self._uploads.wait()
            part()
        except StoppedAfterSave as stop:
            raise self._true_to(stop) from None
        except BaseException:
            if self._uploads:
                self._uploads.finish()
                self._keeper.update(unsaved_steps=self._uploads.unsaved_steps or None)
            raise
        return result

    def _true_to(self, stop: StoppedAfterSave) -> TrainerError:
        """A stop loses nothing when all steps that were done are verified, whatever the moment at which it was heard.
        Ranks that upload nothing leave that to those that do."""
        if self._uploads is None:
            return stop
        cause = ""
        try:
            self._uploads.wait_once()
        except Superseded as error:
            return error
        except TrainerError as error:
            cause = f": {error}"
        lost = self._uploads.unsaved_steps
        if not lost:
            return stop
        self._keeper.update(unsaved_steps=lost)
        since, last = self._uploads.verified_step + 1, self._uploads.done_step
        what = f"step {last} is" if lost == 1 else f"steps {since} to {last} are"
        return StoppedWithoutSave(f"stopped on request, and {what} not saved{cause}. The next attempt does them again")

    def _publish(self, result: TrainResult, fence: Fence) -> TerminationRecord:
        self.enter("publishing")
        published = publish.Result(
            result.directory,
            result.kind,
            step=result.metrics["steps"],
            provenance=result.provenance,
            metrics={**result.metrics, "evaluation": _document(result.evaluation)},
        )
        artifact = until_stored(
            lambda: publish.publish(self._storage, self._job, published, fence, self._scratch),
            "The result",
            Patience(),
            self._note_waiting,
        )
        self.enter("done")
        return outcome.success(
            "train",
            f"{artifact.uri} is published and verified",
            progress=self._keeper.record,
            artifact=artifact,
            evaluation=result.evaluation,
        )

    def _already_published(self, manifest: Manifest, artifact: ArtifactResult) -> TerminationRecord:
        self.enter("publishing")
        if self._fence is not None:
            publish.confirm(
                self._storage, self._job, artifact, self._scratch / "confirm", before_removal=self._fence.check
            )
        self.enter("done")
        evaluation = manifest.metrics.get("evaluation")
        return outcome.success(
            "train",
            f"{artifact.uri} was published by an earlier start of this run, and verifies",
            progress=self._keeper.record.model_copy(update={"step": manifest.step, "total_steps": manifest.step}),
            artifact=artifact,
            evaluation=EvaluationResult.model_validate(evaluation) if evaluation else None,
        )

    # --- hooks ---------------------------------------------------------------------------------------------------

    def enter(self, activity: Activity) -> None:
        heartbeat.enter(activity)
        self._stop.enter(activity)
        self._keeper.update(activity=activity)
        self._metrics.enter(activity)

    def callbacks(self, output: Path) -> Sequence[Any]:
        ranks = self._ranks = Ranks()
        nodes = Nodes(ranks)
        token = ranks.from_rank_zero(self._fence.token if self._fence else 0)
        if self._process.is_first_of_node:
            self._uploads = self._make_uploads(nodes, token)
        return (
            PaceCallback(self._job, self._keeper, self._metrics, prints=self._process.is_first),
            CheckpointCallback(output, self._uploads, ranks, on_saved=self._metrics.checkpoint_save_seconds.set),
            PreemptCallback(self._stop, ranks, self._uploads.wait_once if self._uploads else None),
            LivenessCallback(),  # the last: by then it is known whether a step is followed by a save
        )

    def resume_from(self) -> Path | None:
        assert self._ranks is not None, "callbacks() comes first"
        if self._job.attempt.resume == "none":
            self._report(f"attempt {self._job.attempt.number} starts at step 0, as the operator requests")
            return None
        uri = layout.checkpoints_uri(self._job.spec.output.uri, self._job.identity)
        into = self._scratch / "restored"
        owner = Owner(self._job.identity.uid, self._job.identity.run)
        found = restoring.restore_on_all_ranks(self._storage, uri, into, self._ranks, self._report, owner)
        self._note_lost_steps(found.step if found else 0)
        if found is None:
            self._report("no checkpoint of this run yet: starting at step 0")
            return None
        self._report(f"resuming from step {found.step}: {found.uri}")
        self._keeper.update(step=found.step, checkpoint_step=found.step, checkpoint_uri=found.uri)
        if self._uploads:
            self._uploads.resume(found.step, found.damaged_uris)
        return found.folder

    def _note_lost_steps(self, resumed_from: int) -> None:
        known = self._job.attempt.not_older_than_step
        if resumed_from < known:
            lost = f"steps {resumed_from + 1} to {known} are lost because their checkpoint is missing or damaged"
            self._report(f"{lost}; they are trained again")
            self._keeper.update(lost_steps=known - resumed_from)

    def _make_uploads(self, nodes: Nodes, token: int) -> Uploads:
        job, identity = self._job, self._job.identity
        return Uploads(
            self._storage,
            layout.checkpoints_uri(job.spec.output.uri, identity),
            keep=job.spec.checkpoint.keep,
            token=token,
            fence=self._fence,
            nodes=nodes,
            meta={
                "uid": identity.uid,
                "run": identity.run,
                "attempt": job.attempt.number,
                "provenance": {"worldSize": job.world.size, "configHash": identity.config_hash},
            },
            on_verified=self._note_verified,
            on_waiting=self._note_waiting,
            is_stopped=lambda: self._stop.requested,
            report=self._report,
        )

    def _note_waiting(self, what: str | None) -> None:
        self._keeper.update(waiting=what)
        self._report(f"waiting: {what}" if what else "the storage is back: going on")
        self._stop.wait_for_storage(what is not None)

    def _note_verified(self, step: int, uri: str, seconds: float) -> None:
        self._keeper.update(checkpoint_step=step, checkpoint_uri=uri)
        self._metrics.last_checkpoint_step.set(step)
        self._metrics.last_checkpoint_timestamp_seconds.set_to_current_time()
        self._metrics.checkpoint_upload_seconds.set(seconds)


def _document(evaluation: EvaluationResult | None) -> dict[str, Any] | None:
    return evaluation.model_dump(by_alias=True) if evaluation else None
