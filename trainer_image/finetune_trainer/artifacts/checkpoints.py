"""The checkpoints of a run in S3: where they are, and which of them are complete.

A checkpoint is the Trainer's own folder, stored at `checkpoints/step-<step>.e<token>/`: the fencing token keeps two
starts apart that save the same step. It is complete when it has a manifest whose files all verify; anything else is
left over from an interrupted upload.
"""

import re
from dataclasses import dataclass

from finetune_contract.manifest import MANIFEST_NAME, Manifest
from finetune_trainer.artifacts.storage import Storage

_NAME = re.compile(r"step-(\d{8})\.e(\d{8})")


@dataclass(frozen=True, order=True)
class StoredCheckpoint:
    """A checkpoint in S3, complete or begun. The newest is the greatest."""

    step: int
    token: int
    uri: str
    has_manifest: bool


@dataclass(frozen=True)
class Owner:
    """The run that a checkpoint belongs to."""

    uid: str
    run: int

    def problems(self, manifest: Manifest, stored: StoredCheckpoint) -> list[str]:
        """What the manifest says of itself that this place and this run contradict."""
        pairs = {
            "kind": (manifest.kind, "checkpoint"),
            "uid": (manifest.uid, self.uid),
            "run": (manifest.run, self.run),
            "step": (manifest.step, stored.step),
            "fencing token": (manifest.fencing_token, stored.token),
        }
        return [
            f"its manifest says {name} {said}, not {want}: it was made by another run or moved"
            for name, (said, want) in pairs.items()
            if said != want
        ]


def list_checkpoints(storage: Storage, checkpoints_uri: str) -> list[StoredCheckpoint]:
    """Newest first."""
    paths = [item.path for item in storage.list(checkpoints_uri)]
    complete = {path.split("/")[0] for path in paths if path.endswith(f"/{MANIFEST_NAME}")}
    found = {name: match for path in paths if (match := _NAME.fullmatch(name := path.split("/")[0]))}
    return sorted(
        (
            StoredCheckpoint(int(match[1]), int(match[2]), f"{checkpoints_uri}/{name}", name in complete)
            for name, match in found.items()
        ),
        reverse=True,
    )


def checkpoint_uri(checkpoints_uri: str, step: int, token: int) -> str:
    return f"{checkpoints_uri}/step-{step:08d}.e{token:08d}"
