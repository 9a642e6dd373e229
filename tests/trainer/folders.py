"""Storage whose buckets are folders, for tests that need no S3. The real one has its own tests."""

import hashlib
import shutil
from pathlib import Path

from finetune_trainer.artifacts.storage import Storage, StoredObject
from finetune_trainer.errors import ConfigurationError


class FolderStorage(Storage):
    """`s3://bucket/key` is `<root>/bucket/key`; file:// is read where it lies."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, uri: str) -> Path:
        return self._root / uri.removeprefix("s3://")

    def fetch(self, uri: str, into: Path, *, field: str) -> Path:
        path = self._path(uri) if uri.startswith("s3://") else Path(uri.removeprefix("file://"))
        if not path.exists():
            raise ConfigurationError(f"{uri} is not there", field=field, reason="SourceNotFound")
        return path

    def download(self, uri: str, target: Path, *, field: str = "") -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path(uri), target)

    def get_bytes(self, uri: str, *, field: str = "") -> bytes | None:
        path = self._path(uri)
        return path.read_bytes() if path.is_file() else None

    def list(self, uri: str, *, field: str = "") -> tuple[StoredObject, ...]:
        folder = self._path(uri)
        return tuple(
            StoredObject(
                f"{uri}/{path.relative_to(folder)}",
                str(path.relative_to(folder)),
                path.stat().st_size,
                hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )

    def describe(self, uri: str, *, field: str = "") -> StoredObject | None:
        path = self._path(uri)
        if not path.is_file():
            return None
        mark = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        return StoredObject(uri, path.name, path.stat().st_size, mark)

    def read_range(self, uri: str, start: int, length: int, *, field: str = "") -> bytes:
        return self._path(uri).read_bytes()[start : start + length]

    def put_file(self, path: Path, uri: str, *, field: str = "") -> None:
        self._path(uri).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self._path(uri))

    def put_bytes(self, uri: str, data: bytes, *, if_none_match: bool = False, field: str = "") -> bool:
        self._path(uri).parent.mkdir(parents=True, exist_ok=True)
        self._path(uri).write_bytes(data)
        return True

    def probe(self, output_uri: str) -> None:
        self._path(output_uri).mkdir(parents=True, exist_ok=True)
