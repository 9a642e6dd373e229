"""Checkpoints in S3: uploaded beside the training, complete by their manifest, found again by what verifies.

A checkpoint is the Trainer's own folder. It lies below `checkpoints/step-<step>.e<epoch>/`: the fencing epoch keeps two
starts apart that save the same step. What has a manifest whose files all verify is a checkpoint; anything else there is
the rest of an interrupted upload.
"""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune_contract.manifest import MANIFEST_NAME, FileEntry, Manifest
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.manifests import Damaged
from finetune_trainer.artifacts.storage import Report, Storage
from finetune_trainer.errors import NoValidCheckpoint, TrainerError, Transient
from finetune_trainer.pod.metrics import Metrics
from finetune_trainer.pod.progress import Progress
from finetune_trainer.rank.collectives import Nodes, Ranks

_NAME = re.compile(r"step-(\d{8})\.e(\d{8})")


@dataclass(frozen=True, order=True)
class Stored:
    """A place where a checkpoint is, or was begun. The newest is the greatest."""

    step: int
    epoch: int
    uri: str
    has_manifest: bool


def stored(storage: Storage, checkpoints_uri: str) -> list[Stored]:
    """Newest first."""
    paths = [item.path for item in storage.list(checkpoints_uri)]
    complete = {path.split("/")[0] for path in paths if path.endswith(f"/{MANIFEST_NAME}")}
    found = {name: match for path in paths if (match := _NAME.fullmatch(name := path.split("/")[0]))}
    return sorted(
        (
            Stored(int(match[1]), int(match[2]), f"{checkpoints_uri}/{name}", name in complete)
            for name, match in found.items()
        ),
        reverse=True,
    )


def checkpoint_uri(checkpoints_uri: str, step: int, epoch: int) -> str:
    return f"{checkpoints_uri}/step-{step:08d}.e{epoch:08d}"


# --- restoring -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Restored:
    uri: str
    step: int
    folder: Path
    passed_over: tuple[str, ...] = ()
    """Newer ones that did not verify."""


def restore(storage: Storage, checkpoints_uri: str, into: Path, report: Report) -> Restored | None:
    """Downloads the newest checkpoint that verifies; None when the run has none yet.

    Raises:
        NoValidCheckpoint: there are manifests, and not one of them holds.
    """
    damaged: dict[str, str] = {}
    for candidate in stored(storage, checkpoints_uri):
        if not candidate.has_manifest:
            report(f"checkpoint of step {candidate.step} has no {MANIFEST_NAME}: its upload was interrupted; skipped")
            continue
        try:
            return replace(restore_from(storage, candidate.uri, into), passed_over=tuple(damaged))
        except Damaged as error:
            damaged[candidate.uri] = str(error)
            report(f"checkpoint of step {candidate.step} is damaged, skipped: {error}")
    if damaged:
        raise NoValidCheckpoint(
            f"none of the {len(damaged)} checkpoints of this run verifies; the newest: {next(iter(damaged.values()))}. "
            "To train anew from step 0, start a new run"
        )
    return None


def restore_from(storage: Storage, uri: str, into: Path) -> Restored:
    """Raises Damaged when it does not verify; leaves nothing behind then."""
    draft = into / "restoring"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        manifest = manifests.fetch(storage, uri, draft)
    except Damaged:
        shutil.rmtree(draft)
        raise
    folder = into / f"checkpoint-{manifest.step}"
    shutil.rmtree(folder, ignore_errors=True)
    return Restored(uri, manifest.step, draft.rename(folder))


def restore_on_all(storage: Storage, checkpoints_uri: str, into: Path, ranks: Ranks, report: Report) -> Restored | None:
    """Rank 0 chooses, the first rank of every other node fetches the same, all ranks get it."""
    choice: Restored | TrainerError | None = None
    if ranks.rank == 0:
        try:
            choice = restore(storage, checkpoints_uri, into, report)
        except TrainerError as error:
            choice = error
    choice = ranks.from_first(choice)
    if isinstance(choice, TrainerError):
        raise choice
    if choice is not None and ranks.local_rank == 0 and ranks.rank != 0:
        try:
            restore_from(storage, choice.uri, into)
        except Damaged as error:
            raise Transient(f"rank 0 verified what does not verify here: {error}") from error
    ranks.barrier()
    return choice


# --- saving ----------------------------------------------------------------------------------------------------------
class Uploads:
    """Uploads of one node, one at a time, in a background thread. Retention follows each.

    Args:
        fence: on rank 0 only, which alone commits.
        on_verified: told step and URI once a checkpoint is complete.
    """

    def __init__(
        self,
        storage: Storage,
        checkpoints_uri: str,
        *,
        keep: int,
        epoch: int,
        fence: Fence | None,
        nodes: Nodes,
        meta: dict[str, Any],
        on_verified: Callable[[int, str, float], None],
        report: Report,
    ) -> None:
        self._storage, self._uri, self._keep, self._epoch = storage, checkpoints_uri, keep, epoch
        self._fence, self._nodes, self._meta = fence, nodes, meta
        self._on_verified, self._report = on_verified, report
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._distrusted: frozenset[str] = frozenset()

    def distrust(self, uris: Iterable[str]) -> None:
        """Found damaged at the start: they do not count as kept."""
        self._distrusted = frozenset(uris)

    def begin(self, folder: Path, step: int) -> None:
        """Returns at once, unless the upload before is still under way."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(folder, step), name=f"upload-{step}", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way. Raises what the last upload failed with."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.raise_failure()

    def raise_failure(self) -> None:
        if self._error:
            error, self._error = self._error, None
            raise error

    def _run(self, folder: Path, step: int) -> None:
        start = time.monotonic()
        try:
            manifest = self._upload(folder, step)
            if manifest is not None:
                seconds = time.monotonic() - start
                uri = checkpoint_uri(self._uri, step, self._epoch)
                self._report(
                    f"checkpoint of step {step} verified: {len(manifest.files)} files, "
                    f"{manifest.total_bytes / 2**20:,.1f} MiB in {seconds:.1f} s"
                )
                self._on_verified(step, uri, seconds)
                self._retain()
            _forget_older(folder)
        except Exception as error:  # noqa: BLE001 - raised again in the training's thread
            self._error = error

    def _upload(self, folder: Path, step: int) -> Manifest | None:
        """Every node uploads what no node before it has; the first one commits. None on the others."""
        uri = checkpoint_uri(self._uri, step, self._epoch)
        paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        taken: set[str] = set().union(*self._nodes.gather(paths)[: self._nodes.rank])
        files: list[FileEntry] = []
        for result in self._nodes.gather(self._try_upload(folder, uri, sorted(paths - taken))):
            if isinstance(result, Exception):
                raise result
            files.extend(result)
        if self._fence is None:
            return None
        manifest = Manifest(
            kind="checkpoint",
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            step=step,
            epoch=self._epoch,
            **self._meta,
        )
        manifests.seal(self._storage, manifest, uri, before_manifest=self._fence.check)
        return manifest

    def _try_upload(self, folder: Path, uri: str, paths: list[str]) -> list[FileEntry] | Exception:
        """An error is for all nodes: the others wait for this answer."""
        try:
            for path in paths:
                self._storage.put_file(folder / path, f"{uri}/{path}")
            return [manifests.entry(folder, path) for path in paths]
        except Exception as error:  # noqa: BLE001 - raised again where the answers meet
            return error

    def _retain(self) -> None:
        """Keeps the newest that verify, as many as asked, and removes everything older than these."""
        kept = 0
        for candidate in stored(self._storage, self._uri):
            if kept >= self._keep:
                # The manifest first: what is half deleted must not look like a damaged checkpoint.
                self._storage.delete(f"{candidate.uri}/{MANIFEST_NAME}")
                self._storage.delete_prefix(candidate.uri)
            elif self._verifies(candidate):
                kept += 1

    def _verifies(self, candidate: Stored) -> bool:
        if not candidate.has_manifest or candidate.uri in self._distrusted:
            return False
        return manifests.load_valid(self._storage, candidate.uri) is not None


def _forget_older(folder: Path) -> None:
    """On local disk the newest is enough: a restart reads from S3."""
    for other in folder.parent.glob("checkpoint-*"):
        if int(other.name.rpartition("-")[2]) < int(folder.name.rpartition("-")[2]):
            shutil.rmtree(other, ignore_errors=True)


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Hands each checkpoint of the Trainer to the uploads. Comes before the callback that stops the training."""

    def __init__(self, output_dir: Path, uploads: Uploads | None, ranks: Ranks, metrics: Metrics) -> None:
        self._output_dir, self._uploads, self._ranks, self._metrics = output_dir, uploads, ranks, metrics
        self._step_ended = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended = time.monotonic()
        if self._uploads:
            self._uploads.raise_failure()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ranks.barrier()  # the other ranks' files of this node are there now
        if self._uploads:
            self._uploads.begin(self._output_dir / f"checkpoint-{state.global_step}", state.global_step)
        self._metrics.checkpoint_save_seconds.set(time.monotonic() - self._step_ended)


def note_verified(progress: Progress, metrics: Metrics) -> Callable[[int, str, float], None]:
    def note(step: int, uri: str, seconds: float) -> None:
        progress.update(checkpoint_step=step, checkpoint_uri=uri)
        metrics.last_checkpoint_step.set(step)
        metrics.last_checkpoint_timestamp_seconds.set_to_current_time()
        metrics.checkpoint_upload_seconds.set(seconds)

    return note
