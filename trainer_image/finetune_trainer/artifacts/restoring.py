"""Finds the newest checkpoint that verifies, and downloads it to every node."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_contract.manifest import MANIFEST_NAME
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.checkpoints import list_checkpoints
from finetune_trainer.artifacts.manifests import Damaged
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import NoValidCheckpoint, TrainerError, Transient
from finetune_trainer.rank.collectives import Ranks
from finetune_trainer.rank.reporting import Report


@dataclass(frozen=True)
class RestoredCheckpoint:
    uri: str
    step: int
    folder: Path
    damaged_uris: tuple[str, ...] = ()
    """URIs of newer ones that did not verify."""


def restore(storage: Storage, checkpoints_uri: str, into: Path, report: Report) -> RestoredCheckpoint | None:
    """Downloads the newest checkpoint that verifies; None when the run has none yet.

    Raises:
        NoValidCheckpoint: there are manifests, and none of them verifies.
    """
    damaged: dict[str, str] = {}
    for candidate in list_checkpoints(storage, checkpoints_uri):
        if not candidate.has_manifest:
            report(f"checkpoint of step {candidate.step} has no {MANIFEST_NAME}: its upload was interrupted; skipped")
            continue
        try:
            return replace(restore_from(storage, candidate.uri, into), damaged_uris=tuple(damaged))
        except Damaged as error:
            damaged[candidate.uri] = str(error)
            report(f"checkpoint of step {candidate.step} is damaged, skipped: {error}")
    if damaged:
        raise NoValidCheckpoint(
            f"none of the {len(damaged)} checkpoints of this run verifies; the newest: {next(iter(damaged.values()))}. "
            "To train again from step 0, start a new run"
        )
    return None


def restore_from(storage: Storage, uri: str, into: Path) -> RestoredCheckpoint:
    """Downloads one checkpoint. Raises Damaged when it does not verify, and then leaves nothing behind."""
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
    return RestoredCheckpoint(uri, manifest.step, draft.rename(folder))


def restore_on_all_ranks(
    storage: Storage, checkpoints_uri: str, into: Path, ranks: Ranks, report: Report
) -> RestoredCheckpoint | None:
    """Rank 0 chooses, the first rank of every other node fetches the same, all ranks get it."""
    choice: RestoredCheckpoint | TrainerError | None = None
    if ranks.rank == 0:
        try:
            choice = restore(storage, checkpoints_uri, into, report)
        except TrainerError as error:
            choice = error
    choice = ranks.from_rank_zero(choice)
    if isinstance(choice, TrainerError):
        raise choice
    if choice is not None and ranks.local_rank == 0 and ranks.rank != 0:
        try:
            restore_from(storage, choice.uri, into)
        except Damaged as error:
            raise Transient(f"the checkpoint that rank 0 verified does not verify on this node: {error}") from error
    ranks.barrier()
    return choice
