"""Where a model lies: a folder of this pod, a prefix of a bucket, or a repository of the hub.

A place lists its files and reads parts of them, so that what a model consists of is known before it is downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from finetune_contract.jobspec import Model
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage, StoredObject
from finetune_trainer.artifacts.uris import bucket_and_key
from finetune_trainer.model import hub

FIELD = "spec.model.source"


class Place(Protocol):
    """Names are relative to the place; what lies in folders below it is not listed: no library reads it."""

    @property
    def source(self) -> str:
        """As the job names it."""

    def sizes(self) -> Mapping[str, int]:
        """Name and size in bytes of every file."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """Fewer bytes than `length` where the file ends."""

    def digest(self, name: str) -> str:
        """Changes when the content does: `sha256:…`, or the store's own `etag:…`."""


def place_of(model: Model, storage: Storage) -> Place:
    """Raises ConfigurationError when nothing is there, Transient for storage or network."""
    source = model.source.rstrip("/")
    if source.startswith("hf://"):
        return HubPlace(source, hub.snapshot(model))
    if source.startswith("s3://"):
        return BucketPlace(source, storage)
    return FolderPlace(source, storage.fetch(source, Path(), field=FIELD))  # in place


@dataclass(frozen=True)
class FolderPlace:
    """Or one file: then the only one of its folder that belongs to the model."""

    source: str
    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path.is_file() else self.path

    def sizes(self) -> Mapping[str, int]:
        found = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
        return {path.name: path.stat().st_size for path in found if path.is_file()}

    def read(self, name: str, start: int, length: int) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def digest(self, name: str) -> str:
        return f"sha256:{manifests.sha256(self.folder / name)}"


@dataclass(frozen=True)
class BucketPlace:
    source: str
    storage: Storage

    @cached_property
    def objects(self) -> Mapping[str, StoredObject]:
        """By name; one object, when the source names one."""
        _, key = bucket_and_key(self.source, FIELD)
        if key and (found := self.storage.describe(self.source, field=FIELD)) is not None:
            return {found.path: found}
        return {item.path: item for item in self.storage.list(self.source, field=FIELD) if "/" not in item.path}

    def sizes(self) -> Mapping[str, int]:
        return {name: item.size for name, item in self.objects.items()}

    def read(self, name: str, start: int, length: int) -> bytes:
        return self.storage.read_range(self.objects[name].uri, start, length, field=FIELD)

    def digest(self, name: str) -> str:
        return f"etag:{self.objects[name].etag}"


@dataclass(frozen=True)
class HubPlace:
    source: str
    snapshot: hub.Snapshot

    def sizes(self) -> Mapping[str, int]:
        return {name: file.size for name, file in self.snapshot.files.items()}

    def read(self, name: str, start: int, length: int) -> bytes:
        return hub.read(self.snapshot, name, start, length)

    def digest(self, name: str) -> str:
        return self.snapshot.files[name].digest
