"""Manifests: complete means that every file is there and is what was written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_contract.manifest import MANIFEST_NAME, Manifest, digest
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.manifests import Damaged
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import Superseded, Transient
from tests.trainer.conftest import S3

CONTENT = {"weights.bin": bytes(range(256)) * 20, "config.json": b"{}", "deep/rng.pt": b"\x00\x01\x02"}
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[:-1],
    "bit flipped at the start": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "bit flipped at the end": lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
    "grown": lambda data: data + b"\x00",
    "emptied": lambda data: b"",
    "missing": lambda data: None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in CONTENT.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "source"


def put_folder(storage: Storage, folder: Path, uri: str) -> None:
    for name in CONTENT:
        storage.put_file(folder / name, f"{uri}/{name}")


def test_a_committed_folder_comes_back_as_it_was(s3: S3, storage: Storage, folder: Path, tmp_path: Path) -> None:
    uri = s3.prefix()
    manifest, manifest_digest = manifests.commit(storage, folder, uri, kind="adapter", scratch=tmp_path, step=7)
    assert {entry.path for entry in manifest.files} == set(CONTENT)
    assert manifest_digest == digest(storage.get_bytes(f"{uri}/{MANIFEST_NAME}") or b"")
    fetched = manifests.fetch(storage, uri, tmp_path / "in")
    assert fetched == manifest
    assert {name: (tmp_path / "in" / name).read_bytes() for name in CONTENT} == CONTENT
    assert manifests.verify_local(tmp_path / "in") == []
    assert manifests.load_valid(storage, uri) == manifest


def test_nothing_is_committed_before_the_last_check(s3: S3, storage: Storage, folder: Path) -> None:
    def superseded() -> None:
        raise Superseded("a newer start has begun")

    uri = s3.prefix()
    with pytest.raises(Superseded):
        manifests.commit(storage, folder, uri, kind="adapter", before_manifest=superseded)
    assert len(storage.list(uri)) == len(CONTENT)
    assert manifests.load_valid(storage, uri) is None


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "missing"])
def test_an_upload_that_reads_back_differently_is_not_committed(
    s3: S3, storage: Storage, folder: Path, tmp_path: Path, damage: str
) -> None:
    """Somebody else writes between our upload and the reading back."""
    uri = s3.prefix()
    manifest = manifests.build(folder, "adapter")
    put_folder(storage, folder, uri)
    storage.put_bytes(f"{uri}/weights.bin", DAMAGE[damage](CONTENT["weights.bin"]) or b"")
    with pytest.raises(Transient, match=r"weights\.bin"):
        manifests.seal(storage, manifest, uri, scratch=tmp_path)
    assert not storage.exists(f"{uri}/{MANIFEST_NAME}")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", CONTENT)
def test_any_damage_to_any_file_in_storage_is_named(
    s3: S3, storage: Storage, folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    uri = s3.prefix()
    manifests.commit(storage, folder, uri, kind="checkpoint")
    damaged = DAMAGE[damage](CONTENT[name])
    storage.delete(f"{uri}/{name}") if damaged is None else storage.put_bytes(f"{uri}/{name}", damaged)
    with pytest.raises(Damaged) as caught:
        manifests.fetch(storage, uri, tmp_path / "in")
    assert len(caught.value.problems) == 1
    assert name in caught.value.problems[0]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", CONTENT)
def test_any_damage_to_any_file_on_disk_is_named(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    manifest = manifests.build(folder, "checkpoint")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damaged = DAMAGE[damage](CONTENT[name])
    (copy / name).unlink() if damaged is None else (copy / name).write_bytes(damaged)
    problems = manifests.verify_local(copy, manifest)
    assert len(problems) == 1
    assert name in problems[0]


@pytest.mark.parametrize(
    ("data", "want"),
    [
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b'{"version": 1, "kind": "chec', "cannot be read", id="cut short"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="not text"),
        pytest.param(
            Manifest.model_validate(
                {"kind": "checkpoint", "files": [{"path": "../../etc/passwd", "size": 1, "sha256": ""}]}
            ).render(),
            "paths outside the folder",
            id="paths that lead out of the folder",
        ),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_damage(
    s3: S3, storage: Storage, tmp_path: Path, data: bytes, want: str
) -> None:
    uri = s3.prefix()
    storage.put_bytes(f"{uri}/{MANIFEST_NAME}", data)
    with pytest.raises(Damaged, match=want):
        manifests.fetch(storage, uri, tmp_path)
    assert manifests.load_valid(storage, uri) is None


def test_files_without_a_manifest_are_nothing(s3: S3, storage: Storage, folder: Path, tmp_path: Path) -> None:
    uri = s3.prefix()
    put_folder(storage, folder, uri)
    assert manifests.load(storage, uri) is None
    with pytest.raises(Damaged, match=r"no manifest\.json"):
        manifests.fetch(storage, uri, tmp_path / "in")
