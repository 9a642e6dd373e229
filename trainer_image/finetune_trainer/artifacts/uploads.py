"""Uploads checkpoints in the background, and keeps as many as the job asks for.

One that cannot be uploaded does not end the training: the newest stays on disk and is tried again, until a newer one
takes its place. How long the run goes on like that is decided in patience.py.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_contract.manifest import MANIFEST_NAME, FileEntry, Manifest
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.checkpoints import StoredCheckpoint, checkpoint_uri, list_checkpoints
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.patience import Patience, Waiting
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import StoppedWithoutSave, Superseded, TrainerError, Transient
from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.collectives import Nodes
from finetune_trainer.rank.reporting import Report

_TICK_SECONDS = 1.0
_SILENT_SECONDS = 20.0


@dataclass(frozen=True)
class _Saved:
    """A checkpoint on this node's disk."""

    folder: Path
    step: int
    at: float
    """When it was written, by the monotonic clock."""


class Uploads:
    """Uploads of one node, one at a time, in a background thread; each is followed by retention.

    Args:
        fence: on rank 0, the only one that commits.
        token: of the start, the same on all nodes.
        on_verified: called with step, URI and the seconds of its upload once a checkpoint is complete.
        on_waiting: told what the run waits for.
        is_stopped: whether this start was asked to stop: it then waits for one more try at most.
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
        on_waiting: Waiting = lambda what: None,
        is_stopped: Callable[[], bool] = lambda: False,
        patience: Patience | None = None,
    ) -> None:
        self._storage, self._uri, self._keep, self._token = storage, checkpoints_uri, keep, token
        self._fence, self._nodes, self._meta = fence, nodes, meta
        self._on_verified, self._on_waiting, self._report = on_verified, on_waiting, report
        self._is_stopped, self._patience = is_stopped, patience or Patience()
        self._changed = threading.Condition()
        self._pending: _Saved | None = None
        self._runs = False
        self._fatal: Exception | None = None
        self._failure: TrainerError | None = None
        self._failures = 0
        self._damaged: frozenset[str] = frozenset()
        self._safe_at = self._last_save = time.monotonic()
        self._interval, self._stored_step = 0.0, -1
        self.verified_step = self.done_step = 0
        """Of the newest verified checkpoint, which includes the one that the start resumed from; of the last step."""

    # --- what the training says --------------------------------------------------------------------------------------

    def resume(self, step: int, damaged: Iterable[str]) -> None:
        """The start resumed from this step. `damaged` are URIs of newer checkpoints, which do not count as kept."""
        self.verified_step = self.done_step = step
        self._damaged = frozenset(damaged)

    def begin(self, folder: Path, step: int) -> None:
        """Returns at once, unless the previous upload is at work. One that failed gives way to this."""
        now = time.monotonic()
        with self._changed:
            while self._runs and self._failure is None and self._fatal is None:
                self._changed.wait(_TICK_SECONDS)
            self._raise_fatal()
            if step == self._stored_step:
                return  # another node was told first, and all uploaded it
            self._interval, self._last_save = now - self._last_save, now
            self._pending, self.done_step = _Saved(folder, step, now), max(step, self.done_step)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name=f"upload-{step}", daemon=True).start()
            self._changed.notify_all()

    def raise_failure(self) -> None:
        """What no further try can change: another start has taken over, or a bug."""
        with self._changed:
            self._raise_fatal()

    @property
    def unsaved_steps(self) -> int:
        """Done since the newest verified checkpoint: lost if the start ends now."""
        return max(0, self.done_step - self.verified_step)

    @property
    def is_overdue(self) -> bool:
        """Whether so much work is unsaved that the training should wait."""
        with self._changed:
            age = time.monotonic() - self._safe_at
            return self._failure is not None and age > self._patience.for_unsaved(self._interval)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until everything is uploaded.

        Raises:
            Transient: not within `Patience.pause`, or this start is asked to stop; says which steps are lost.
            TrainerError: a newer start has taken over.
        """
        since, told = time.monotonic(), ""
        with self._changed:
            while self._runs and self._fatal is None:
                if self._failure is not None:
                    heartbeat.beat()  # a deliberate wait is no hang
                    if self._is_stopped():
                        raise StoppedWithoutSave(f"stopped on request while {self._lost(self._failure)}")
                    if time.monotonic() - since >= self._patience.pause:
                        raise Transient(self._lost(self._failure), reason="CheckpointNotStored")
                    if not told:
                        told = f"The checkpoint of step {self.done_step} cannot be stored: {self._failure}"
                        self._on_waiting(told)
                self._changed.wait(min(_TICK_SECONDS, self._patience.pause))
            self._raise_fatal()
        if told:
            self._on_waiting(None)

    def wait_once(self) -> None:
        """Until what is being uploaded is there, or one more try has failed: nobody knows how long a pod that was asked
        to stop may still run.

        Raises:
            TrainerError: that failure.
        """
        with self._changed:
            failures = self._failures
            self._changed.notify_all()  # a thread that waits for its next try need not
            while self._runs and self._fatal is None:
                if self._failure is not None and self._failures > failures:
                    raise self._failure
                self._changed.wait(_TICK_SECONDS)
            self._raise_fatal()

    def finish(self) -> None:
        """The training has failed: what is on its way may arrive, as long as it moves."""
        moved, since = heartbeat.moved(), time.monotonic()
        with self._changed:
            while self._runs and self._failure is None and self._fatal is None:
                self._changed.wait(_TICK_SECONDS)
                if heartbeat.moved() != moved:
                    moved, since = heartbeat.moved(), time.monotonic()
                elif time.monotonic() - since > _SILENT_SECONDS:
                    return

    def _lost(self, error: TrainerError) -> str:
        lost = (
            f"steps {self.verified_step + 1} to {self.done_step} are lost" if self.unsaved_steps else "no step is lost"
        )
        return f"the checkpoint of step {self.done_step} could not be stored ({lost}): {error}"

    def _raise_fatal(self) -> None:
        if self._fatal:
            error, self._fatal = self._fatal, None
            raise error

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (saved := self._next()) is not None:
                self._try(saved)
        except Exception as error:  # noqa: BLE001 - raised again in the training's thread
            with self._changed:
                self._fatal, self._runs = error, False
                self._changed.notify_all()

    def _next(self) -> _Saved | None:
        with self._changed:
            if self._pending is None:
                self._runs = False
                self._changed.notify_all()
            return self._pending

    def _try(self, saved: _Saved) -> None:
        try:
            stored = self._upload_newest(saved)
        except Superseded:
            raise
        except TrainerError as error:
            self._note_failure(error)
            return
        with self._changed:
            self._failure, self._failures = None, 0
            self.verified_step = self._stored_step = stored.step
            self._safe_at = stored.at
            if self._pending is not None and self._pending.step <= stored.step:
                self._pending = None
            self._changed.notify_all()
        _remove_older_local(stored.folder)

    def _note_failure(self, error: TrainerError) -> None:
        with self._changed:
            self._failure, self._failures = error, self._failures + 1
            pause = self._patience.before_try(self._failures)
            self._report(f"a checkpoint is not stored yet and stays on disk; next try in {pause:.0f} s: {error}")
            self._changed.notify_all()
            self._changed.wait(pause)

    def _upload_newest(self, saved: _Saved) -> _Saved:
        """One try. All nodes take the same checkpoint, the newest that one of them was told of: it is complete on every
        disk by then. All learn whether it was committed.

        Raises:
            TrainerError: on all nodes when it is raised on one.
        """
        step = max(self._nodes.gather(saved.step))
        chosen = _Saved(saved.folder.with_name(f"checkpoint-{step}"), step, saved.at)
        begun = time.monotonic()
        manifest, error = self._upload(chosen)
        for failed in self._nodes.gather(error):
            if failed is not None:
                raise failed
        if manifest is not None:
            self._commit_noted(chosen, manifest, time.monotonic() - begun)
        return chosen

    def _upload(self, saved: _Saved) -> tuple[Manifest | None, Exception | None]:
        """Every node uploads what no node before it has; the first one commits. An error is returned, for all nodes:
        the others wait for this answer."""
        uri = checkpoint_uri(self._uri, saved.step, self._token)
        folder = saved.folder
        paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        taken: set[str] = set().union(*self._nodes.gather(paths)[: self._nodes.rank])
        results = self._nodes.gather(self._put(folder, uri, sorted(paths - taken)))
        failed = next((result for result in results if isinstance(result, Exception)), None)
        if failed is not None or self._fence is None:
            return None, failed
        files = [entry for result in results if not isinstance(result, Exception) for entry in result]
        manifest = Manifest(
            kind="checkpoint",
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            step=saved.step,
            fencing_token=self._token,
            **self._meta,
        )
        try:
            manifests.seal(self._storage, manifest, uri, before_manifest=self._fence.check)
        except Exception as error:  # noqa: BLE001 - raised again on every node
            return None, error
        return manifest, None

    def _put(self, folder: Path, uri: str, paths: list[str]) -> list[FileEntry] | Exception:
        try:
            for path in paths:
                self._storage.put_file(folder / path, f"{uri}/{path}")
            return [manifests.entry(folder, path) for path in paths]
        except Exception as error:  # noqa: BLE001 - raised again on every node
            return error

    def _commit_noted(self, saved: _Saved, manifest: Manifest, seconds: float) -> None:
        self._report(
            f"checkpoint of step {saved.step} verified: {len(manifest.files)} files, "
            f"{manifest.total_bytes / 2**20:,.1f} MiB in {seconds:.1f} s"
        )
        self._on_verified(saved.step, checkpoint_uri(self._uri, saved.step, self._token), seconds)
        try:
            self._retain()
        except Superseded:
            raise
        except TrainerError as error:  # what is saved is saved: the next save removes more
            self._report(f"older checkpoints could not be removed: {error}")

    # --- retention ---------------------------------------------------------------------------------------------------

    def _retain(self) -> None:
        """Keeps the newest `keep` that verify, and removes everything older."""
        kept = 0
        for candidate in list_checkpoints(self._storage, self._uri):
            if kept >= self._keep:
                # The manifest first: half deleted, it must not look like a damaged checkpoint.
                if not self._storage.delete_if_allowed(f"{candidate.uri}/{MANIFEST_NAME}"):
                    return
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
