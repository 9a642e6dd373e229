"""Manifests in storage: how a folder becomes complete, and how a reader knows that it is.

Files first, manifest last: a prefix without a manifest does not count, whatever lies there. Nothing here knows what
the files mean.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from finetune_contract.manifest import MANIFEST_NAME, FileEntry, Manifest, digest
from finetune_trainer.artifacts.s3_errors import Vanished
from finetune_trainer.artifacts.storage import FIELD_OUTPUT, Storage
from finetune_trainer.errors import Transient

Kind = Literal["prepared", "checkpoint", "adapter", "model"]
Problem = str


class Damaged(Transient):
    """What is stored is not what its manifest states. A caller that can do without it catches this; for the others, a
    later start may find it repaired."""

    def __init__(self, uri: str, problems: list[Problem]) -> None:
        super().__init__(f"{uri}: {'; '.join(problems)}", reason="DamagedInStorage")
        self.problems = problems


def build(folder: Path, kind: Kind, **meta: Any) -> Manifest:
    """Hashes every file below the folder once."""
    paths = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST_NAME
    )
    return Manifest(kind=kind, files=tuple(entry(folder, path) for path in paths), **meta)


def entry(folder: Path, path: str) -> FileEntry:
    return FileEntry(path=path, size=(folder / path).stat().st_size, sha256=sha256(folder / path))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit(
    storage: Storage,
    folder: Path,
    uri: str,
    *,
    kind: Kind,
    scratch: Path | None = None,
    before_manifest: Callable[[], None] = lambda: None,
    **meta: Any,
) -> tuple[Manifest, str]:
    """Uploads a folder, then its manifest; returns the manifest and its digest once both were read back.

    Args:
        scratch: if given, every file is downloaded again and hashed, as the final artifact's promise demands. Without
            it, the server verified each upload's checksum on arrival, and the sizes are compared: enough for what is
            hashed again on every read and has a predecessor to fall back on, as a checkpoint does.
        before_manifest: has the last word, such as the fence; raises to commit nothing.
    """
    manifest = build(folder, kind, **meta)
    for entry in manifest.files:
        storage.put_file(folder / entry.path, f"{uri}/{entry.path}")
    return manifest, seal(storage, manifest, uri, scratch=scratch, before_manifest=before_manifest)


def seal(
    storage: Storage,
    manifest: Manifest,
    uri: str,
    *,
    scratch: Path | None = None,
    before_manifest: Callable[[], None] = lambda: None,
) -> str:
    """Commits uploaded files by their manifest; returns its digest."""
    if problems := _stored_problems(storage, manifest, uri):
        raise Transient(
            f"{uri} was uploaded but does not read back as written: {'; '.join(problems)}", reason="UploadNotVerified"
        )
    if scratch is not None:
        for entry in manifest.files:
            _check_download(storage, entry, uri, scratch)
    before_manifest()
    data = manifest.render()
    storage.put_bytes(f"{uri}/{MANIFEST_NAME}", data)
    if storage.get_bytes(f"{uri}/{MANIFEST_NAME}") != data:
        raise Transient(f"{uri}/{MANIFEST_NAME} does not read back as written", reason="UploadNotVerified")
    return digest(data)


def _check_download(storage: Storage, entry: FileEntry, uri: str, scratch: Path) -> None:
    target = scratch / "read-back"
    storage.download(f"{uri}/{entry.path}", target)
    try:
        if sha256(target) != entry.sha256:
            raise Transient(f"{uri}/{entry.path} reads back with a different SHA-256", reason="UploadNotVerified")
    finally:
        target.unlink(missing_ok=True)


def load(storage: Storage, uri: str, *, field: str = FIELD_OUTPUT) -> Manifest | None:
    """The manifest, unchecked; None when there is none.

    Raises:
        Damaged: there is one, and it cannot be read.
    """
    data = storage.get_bytes(f"{uri}/{MANIFEST_NAME}", field=field)
    return None if data is None else _parse(data, uri)


def _parse(data: bytes, uri: str) -> Manifest:
    try:
        manifest = Manifest.parse(data)
    except ValueError as error:
        raise Damaged(uri, [f"{MANIFEST_NAME} cannot be read ({type(error).__name__})"]) from error
    if unsafe := [entry.path for entry in manifest.files if not _is_safe(entry.path)]:
        raise Damaged(uri, [f"{MANIFEST_NAME} names paths outside the folder: {', '.join(unsafe)}"])
    return manifest


def load_valid(storage: Storage, uri: str, *, field: str = FIELD_OUTPUT) -> Manifest | None:
    """The manifest when every file is there with its size, else None. Digests are checked by `fetch`."""
    try:
        manifest = load(storage, uri, field=field)
    except Damaged:
        return None
    return manifest if manifest and not _stored_problems(storage, manifest, uri, field) else None


def fetch(storage: Storage, uri: str, into: Path, *, field: str = FIELD_OUTPUT) -> Manifest:
    """Downloads what the manifest lists, and nothing else, checking every SHA-256.

    Raises:
        Damaged: there is no manifest, or files differ from it; names them.
    """
    data = storage.get_bytes(f"{uri}/{MANIFEST_NAME}", field=field)
    if data is None:
        raise Damaged(uri, [f"no {MANIFEST_NAME}"])
    manifest = _parse(data, uri)
    if problems := _stored_problems(storage, manifest, uri, field):
        raise Damaged(uri, problems)
    try:
        for entry in manifest.files:
            storage.download(f"{uri}/{entry.path}", into / entry.path, field=field)
    except Vanished as error:
        raise Damaged(uri, [str(error)]) from error
    if problems := verify_local(into, manifest):
        raise Damaged(uri, problems)
    (into / MANIFEST_NAME).write_bytes(data)
    return manifest


def verify_local(folder: Path, manifest: Manifest | None = None) -> list[Problem]:
    """What is wrong with a folder on disk according to a manifest (its own, unless given). Empty: it is valid."""
    if manifest is None:
        try:
            manifest = Manifest.parse((folder / MANIFEST_NAME).read_bytes())
        except (OSError, ValueError) as error:
            return [f"{MANIFEST_NAME} cannot be read ({type(error).__name__})"]
    return [problem for entry in manifest.files if (problem := _local_problem(folder, entry))]


def _local_problem(folder: Path, entry: FileEntry) -> Problem | None:
    path = folder / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    if path.stat().st_size != entry.size:
        return f"{entry.path} has {path.stat().st_size} bytes, not {entry.size}"
    if sha256(path) != entry.sha256:
        return f"{entry.path} has a different SHA-256"
    return None


def _stored_problems(storage: Storage, manifest: Manifest, uri: str, field: str = FIELD_OUTPUT) -> list[Problem]:
    sizes = {item.path: item.size for item in storage.list(uri, field=field)}
    return [
        f"{entry.path} is missing"
        if entry.path not in sizes
        else f"{entry.path} has {sizes[entry.path]} bytes, not {entry.size}"
        for entry in manifest.files
        if sizes.get(entry.path) != entry.size
    ]


def _is_safe(path: str) -> bool:
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
