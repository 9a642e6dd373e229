"""What a file holds, by its content: a suffix may be missing or wrong. Packed files are unpacked as they are read."""

import bz2
import errno
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from finetune_trainer.errors import DataError, Transient
from finetune_trainer.prepare.data_files import DataFile

Kind = Literal["json lines", "json array", "csv", "parquet"]

HEAD = 64 << 10
"""Bytes that are looked at."""
_BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"


Unpack = Callable[[BinaryIO], BinaryIO]


def _by_arrow(codec: str) -> Unpack:
    def unpacked(packed: BinaryIO) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(packed, "r"), codec)))

    return unpacked


def _by_module(module: Any) -> Unpack:
    return lambda packed: cast(BinaryIO, module.open(packed, "rb"))


_PACKINGS: dict[bytes, Unpack] = {
    b"\x1f\x8b": _by_module(gzip),
    b"BZh": _by_module(bz2),
    b"\xfd7zXZ\x00": _by_module(lzma),
    b"\x28\xb5\x2f\xfd": _by_arrow("zstd"),
    b"\x04\x22\x4d\x18": _by_arrow("lz4"),
}
_REFUSED: dict[bytes, str] = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"ARROW1": "is an Arrow file; save it as Parquet",
    b"PARE": "is an encrypted Parquet file; write it without encryption",
    b"version https://git-lfs": "is a pointer of Git LFS, not the data; fetch the data with `git lfs pull`",
    b"<": "is a web page or XML, not data; look at how it was downloaded",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    **dict.fromkeys(_PACKINGS, "is packed twice; unpack it once"),
}
"""By the first bytes, once unpacked."""


Moved = Callable[[int], None]
"""Is told how many bytes of a file were read since the last call."""


class _Metered(io.FileIO):
    def __init__(self, path: Path, moved: Moved) -> None:
        super().__init__(path)
        self._moved = moved

    def readinto(self, buffer: Any, /) -> int | None:
        count = super().readinto(buffer)
        self._moved(count or 0)
        return count


@contextmanager
def open_unpacked(file: DataFile, moved: Moved) -> Iterator[BinaryIO]:
    """The file's bytes. Used inside `reading`, which knows what its errors mean."""
    with io.BufferedReader(_Metered(file.path, moved), _BLOCK) as packed:
        head = packed.peek(8)
        unpack = next((unpack for magic, unpack in _PACKINGS.items() if head.startswith(magic)), None)
        if unpack is None:
            yield cast(BinaryIO, packed)
            return
        with unpack(cast(BinaryIO, packed)) as unpacked:
            yield unpacked


@contextmanager
def reading(file: DataFile) -> Iterator[None]:
    """Raises DataError for a file that may not be read, or whose packing is damaged; Transient for a failing disk."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise _damaged(file, error) from None
    except OSError as error:
        if error.errno is None:  # gzip, bz2 and Arrow raise it for what they cannot unpack
            raise _damaged(file, error) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            message = f"may not be read ({error.strerror}); allow it to the pod's user"
            raise DataError(message, file=file.name) from None
        raise Transient(f"{file.name} cannot be read: {error.strerror}") from error


def _damaged(file: DataFile, error: Exception) -> DataError:
    message = f"cannot be unpacked ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return DataError(f"{message}; it is cut off or damaged, upload it again", file=file.name)


def kind_of(file: DataFile) -> Kind | None:
    """How the file is to be read; None when it is empty.

    Raises:
        DataError: it is nothing that can be read; names what it is and the cure.
    """
    with reading(file), open_unpacked(file, lambda count: None) as unpacked:
        head = unpacked.read(HEAD)
    if head.startswith(b"PAR1"):
        return _parquet(file)
    _refuse_foreign(file, head)
    text = head.removeprefix(BOM).lstrip()
    if not text and len(head) < HEAD:
        return None
    if file.suffix == ".parquet" and not text.startswith((b"{", b"[")):
        return "parquet"  # as it says; the library's message tells why it is not
    if text.startswith(b"["):
        return "csv" if file.suffix == ".csv" else "json array"
    if text.startswith(b"{"):
        return "csv" if file.suffix == ".csv" and not text.startswith((b'{"', b"{ ")) else "json lines"
    if file.suffix:
        return "csv" if file.suffix == ".csv" else "json lines"
    cure = "name it .csv if it is CSV with a comma between cells, else save it as JSON lines"
    raise DataError(f"is neither JSON nor Parquet; {cure}", file=file.name)


def _parquet(file: DataFile) -> Kind:
    with file.path.open("rb") as start:
        if start.read(4) != b"PAR1":
            raise DataError("is a packed Parquet file; unpack it, its columns are packed already", file=file.name)
    return "parquet"


def _refuse_foreign(file: DataFile, head: bytes) -> None:
    for magic, message in _REFUSED.items():
        if head.startswith(magic):
            raise DataError(message, file=file.name)
    if head[257:262] == b"ustar":
        raise DataError("is a tar archive; unpack it", file=file.name)
    if b"\x00" in head[:4]:
        raise DataError("begins with NUL bytes; it is UTF-16 or damaged, save it as UTF-8", file=file.name)
