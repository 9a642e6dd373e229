"""Uploads checkpoints in the background, and keeps as many as the job asks for."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune_contract.manifest import MANIFEST_NAME, FileEntry, Manifest
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.checkpoints import StoredCheckpoint, checkpoint_uri, list_checkpoints
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.rank.collectives import Nodes, Ranks
from finetune_trainer.rank.reporting import Report


class Uploads:
    """Uploads of one node, one at a time, in a background thread; each is followed by retention.

    Args:
        fence: on rank 0, the only one that commits.
        token: of the start, the same on all nodes.
        on_verified: called with step, URI and the seconds of its upload once a checkpoint is complete.
    """

    def __init__(
        self,
        storage: Storage,
        checkpoints_uri: str,
        *,
        keep: int,
        token: int,
        fence: Fence | None,
        nodes: Nodes,
        meta: dict[str, Any],
        on_verified: Callable[[int, str, float], None],
        report: Report,
    ) -> None:
        self._storage, self._uri, self._keep, self._token = storage, checkpoints_uri, keep, token
        self._fence, self._nodes, self._meta = fence, nodes, meta
        self._on_verified, self._report = on_verified, report
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._damaged: frozenset[str] = frozenset()

    def mark_damaged(self, uris: Iterable[str]) -> None:
        """These were found damaged when the start restored: they do not count as kept."""
        self._damaged = frozenset(uris)

    def begin(self, folder: Path, step: int) -> None:
        """Returns at once, unless the previous upload is still running."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(folder, step), name=f"upload-{step}", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when no upload is running. Raises what the last one failed with."""
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
                uri = checkpoint_uri(self._uri, step, self._token)
                self._report(
                    f"checkpoint of step {step} verified: {len(manifest.files)} files, "
                    f"{manifest.total_bytes / 2**20:,.1f} MiB in {seconds:.1f} s"
                )
                self._on_verified(step, uri, seconds)
                self._retain()
            _remove_older_local(folder)
        except Exception as error:  # noqa: BLE001 - raised again in the training's thread
            self._error = error

    def _upload(self, folder: Path, step: int) -> Manifest | None:
        """Every node uploads what no node before it has; the first one commits. Returns None on the others."""
        uri = checkpoint_uri(self._uri, step, self._token)
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
            fencing_token=self._token,
            **self._meta,
        )
        manifests.seal(self._storage, manifest, uri, before_manifest=self._fence.check)
        return manifest

    def _try_upload(self, folder: Path, uri: str, paths: list[str]) -> list[FileEntry] | Exception:
        """An error is returned, for all nodes: the others wait for this answer."""
        try:
            for path in paths:
                self._storage.put_file(folder / path, f"{uri}/{path}")
            return [manifests.entry(folder, path) for path in paths]
        except Exception as error:  # noqa: BLE001 - raised again where the answers meet
            return error

    def _retain(self) -> None:
        """Keeps the newest `keep` that verify, and removes everything older."""
        kept = 0
        for candidate in list_checkpoints(self._storage, self._uri):
            if kept >= self._keep:
                # The manifest first: half deleted, it must not look like a damaged checkpoint.
                self._storage.delete(f"{candidate.uri}/{MANIFEST_NAME}")
                self._storage.delete_prefix(candidate.uri)
            elif self._verifies(candidate):
                kept += 1

    def _verifies(self, candidate: StoredCheckpoint) -> bool:
        if not candidate.has_manifest or candidate.uri in self._damaged:
            return False
        return manifests.load_valid(self._storage, candidate.uri) is not None


def _remove_older_local(folder: Path) -> None:
    """On local disk the newest is enough: a restart reads from S3."""
    for other in folder.parent.glob("checkpoint-*"):
        if int(other.name.rpartition("-")[2]) < int(folder.name.rpartition("-")[2]):
            shutil.rmtree(other, ignore_errors=True)


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Hands each checkpoint of the Trainer to the uploads. Comes before the callback that stops the training.

    Args:
        uploads: on the first rank of each node.
        on_saved: called with the seconds that a save paused the training.
    """

    def __init__(
        self, output_dir: Path, uploads: Uploads | None, ranks: Ranks, on_saved: Callable[[float], None]
    ) -> None:
        self._output_dir, self._uploads, self._ranks, self._on_saved = output_dir, uploads, ranks, on_saved
        self._step_ended = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended = time.monotonic()
        if self._uploads:
            self._uploads.raise_failure()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ranks.barrier()  # by now the other ranks of this node have written their files
        if self._uploads:
            self._uploads.begin(self._output_dir / f"checkpoint-{state.global_step}", state.global_step)
        self._on_saved(time.monotonic() - self._step_ended)
