"""Publishes the result: files first, manifest last, everything read back, and only then is it the newest.

Knows where a result is stored and what its manifest says, not what trained it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_contract import layout
from finetune_contract.jobspec import JobFile
from finetune_contract.manifest import MANIFEST_NAME, Manifest, digest
from finetune_contract.termination import ArtifactResult
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.fence import Fence
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import Transient


@dataclass(frozen=True)
class Result:
    """What a run produces: a folder, and what its manifest says about it."""

    folder: Path
    kind: Literal["adapter", "model"]
    step: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def publish(storage: Storage, job: JobFile, result: Result, fence: Fence, scratch: Path) -> ArtifactResult:
    """Uploads, reads back by SHA-256, commits, points `latest.json` at it.

    The fence is checked before each file too: a superseded start must not write into its successor's result.
    """
    uri = layout.artifact_uri(job.spec.output.uri, job.identity)
    manifest = manifests.build(
        result.folder,
        result.kind,
        uid=job.identity.uid,
        run=job.identity.run,
        attempt=job.attempt.number,
        fencing_token=fence.token,
        step=result.step,
        provenance={**_identity(job), **result.provenance},
        metrics=dict(result.metrics),
    )
    for entry in manifest.files:
        fence.check()
        storage.put_file(result.folder / entry.path, f"{uri}/{entry.path}")
    artifact = _artifact(
        uri, manifest, manifests.seal(storage, manifest, uri, scratch=scratch, before_manifest=fence.check)
    )
    _point_latest(storage, job, artifact)
    return artifact


def _point_latest(storage: Storage, job: JobFile, artifact: ArtifactResult) -> None:
    latest = {"uri": artifact.uri, "digest": artifact.digest, "name": job.identity.name, "run": job.identity.run}
    storage.put_bytes(layout.latest_uri(job.spec.output.uri), json.dumps(latest, indent=1).encode())


def published(storage: Storage, job: JobFile) -> tuple[Manifest, ArtifactResult] | None:
    """The result of this run when it exists already: a start ended between publishing and exit.

    Compares sizes only: all ranks look at the same time, and have to agree at little cost."""
    uri = layout.artifact_uri(job.spec.output.uri, job.identity)
    manifest = manifests.load_valid(storage, uri)
    data = storage.get_bytes(f"{uri}/{MANIFEST_NAME}")
    return (manifest, _artifact(uri, manifest, digest(data))) if manifest and data else None


def confirm(
    storage: Storage, job: JobFile, artifact: ArtifactResult, scratch: Path, *, before_removal: Callable[[], None]
) -> None:
    """Checks every SHA-256 of a published result. A damaged one is withdrawn: the next attempt publishes it again."""
    try:
        manifests.fetch(storage, artifact.uri, scratch)
    except manifests.Damaged as error:
        before_removal()
        storage.delete(f"{artifact.uri}/{MANIFEST_NAME}")
        message = f"the published result is damaged and was withdrawn; the next attempt publishes it again: {error}"
        raise Transient(message, reason="ArtifactDamaged") from error
    _point_latest(storage, job, artifact)


def _artifact(uri: str, manifest: Manifest, manifest_digest: str) -> ArtifactResult:
    return ArtifactResult(uri=uri, digest=manifest_digest, bytes=manifest.total_bytes, files=len(manifest.files))


def _identity(job: JobFile) -> dict[str, Any]:
    identity, spec = job.identity, job.spec
    return {
        "namespace": identity.namespace,
        "name": identity.name,
        "configHash": identity.config_hash,
        "image": identity.image,
        "modelSource": spec.model.source,
        "modelRevision": spec.model.revision,
        "preparedDigest": job.prepared.digest if job.prepared else None,
        "datasets": [source.source for source in spec.dataset.train],
        "method": spec.method.type,
    }
