"""Finds the newest checkpoint that verifies, and downloads it to every node."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_contract.manifest import MANIFEST_NAME
from finetune_trainer.artifacts import manifests, unpickling
from finetune_trainer.artifacts.checkpoints import Owner, StoredCheckpoint, list_checkpoints
from finetune_trainer.artifacts.manifests import Damaged
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import NoValidCheckpoint, TrainerError, Transient
from finetune_trainer.rank.collectives import Ranks
from finetune_trainer.rank.reporting import Report


@dataclass(frozen=True)
class RestoredCheckpoint:
    stored: StoredCheckpoint
    folder: Path
    damaged_uris: tuple[str, ...] = ()
    """URIs of newer ones that did not verify."""

    @property
    def uri(self) -> str:
        return self.stored.uri

    @property
    def step(self) -> int:
        return self.stored.step


def restore(
    storage: Storage, checkpoints_uri: str, into: Path, report: Report, owner: Owner
) -> RestoredCheckpoint | None:
    """Downloads the newest checkpoint of this run that verifies; None when it has none yet.

    Raises:
        NoValidCheckpoint: there are manifests, and none of them verifies.
    """
    damaged: dict[str, str] = {}
    for candidate in list_checkpoints(storage, checkpoints_uri):
        if not candidate.has_manifest:
            report(f"checkpoint of step {candidate.step} has no {MANIFEST_NAME}: its upload was interrupted; skipped")
            continue
        try:
            return replace(restore_from(storage, candidate, into, owner), damaged_uris=tuple(damaged))
        except Damaged as error:
            damaged[candidate.uri] = str(error)
            report(f"checkpoint of step {candidate.step} is damaged, skipped: {error}")
    if damaged:
        raise NoValidCheckpoint(
            f"none of the {len(damaged)} checkpoints of this run verifies; the newest: {next(iter(damaged.values()))}. "
            "To train again from step 0, start a new run"
        )
    return None


def restore_from(storage: Storage, stored: StoredCheckpoint, into: Path, owner: Owner) -> RestoredCheckpoint:
    """Downloads one checkpoint.

    Raises:
        Damaged: it does not verify, is of another run, or holds what may not be unpickled. Then nothing is left behind.
    """
    draft = into / "restoring"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        manifest = manifests.load(storage, stored.uri)
        if manifest is not None and (foreign := owner.problems(manifest, stored)):
            raise Damaged(stored.uri, foreign)
        manifest = manifests.fetch(storage, stored.uri, draft)
        if forbidden := unpickling.problems(draft):
            raise Damaged(stored.uri, forbidden)
    except Damaged:
        shutil.rmtree(draft)
        raise
    folder = into / f"checkpoint-{manifest.step}"
    shutil.rmtree(folder, ignore_errors=True)
    return RestoredCheckpoint(stored, draft.rename(folder))


def restore_on_all_ranks(
    storage: Storage, checkpoints_uri: str, into: Path, ranks: Ranks, report: Report, owner: Owner
) -> RestoredCheckpoint | None:
    """Rank 0 chooses, the first rank of every other node fetches the same, all ranks get it."""
    choice: RestoredCheckpoint | TrainerError | None = None
    if ranks.rank == 0:
        try:
            choice = restore(storage, checkpoints_uri, into, report, owner)
        except TrainerError as error:
            choice = error
    choice = ranks.from_rank_zero(choice)
    if isinstance(choice, TrainerError):
        raise choice
    if choice is not None and ranks.local_rank == 0 and ranks.rank != 0:
        try:
            restore_from(storage, choice.stored, into, owner)
        except Damaged as error:
            raise Transient(f"the checkpoint that rank 0 verified does not verify on this node: {error}") from error
    ranks.barrier()
    return choice
