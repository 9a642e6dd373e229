"""Token rows on disk: appended as they come, chosen and copied when all are there, mapped into memory to be read.

The files are safetensors, written and read without being held in memory as that library does.
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from finetune_trainer.objectives.objective import TokenRow

_DTYPES: dict[str, tuple[str, Any]] = {
    "offsets": ("I64", np.int64),
    "ids": ("I32", np.int32),
    "supervised": ("U8", np.uint8),
}
_COPIED_AT_ONCE = 4 << 20
"""Bytes."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Array = np.ndarray[Any, Any]


class TokenSpill:
    """Rows in the order in which they came. In memory: 4 bytes for each row."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {name: folder / name for name in ("ids", "supervised")}
        self._files: dict[str, BinaryIO] = {name: path.open("wb") for name, path in self._paths.items()}
        self._lengths = array("i")

    def append(self, ids: Array, supervised: Array, lengths: Array) -> None:
        """Args: ids, supervised: of several rows, one after another, [tokens]; lengths: of each, [rows]."""
        ids.astype(np.int32, copy=False).tofile(self._files["ids"])
        supervised.astype(np.uint8, copy=False).tofile(self._files["supervised"])
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())

    @property
    def lengths(self) -> Array:
        """[rows]"""
        return np.array(self._lengths, np.int32)

    def close(self) -> None:
        """Nothing is appended any more."""
        for file in self._files.values():
            file.close()

    def write(self, path: Path, chosen: Flags) -> None:
        """The chosen rows, as `StoredRows` reads them. chosen: [rows]"""
        lengths = self.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen], dtype=np.int64)])
        tokens = int(offsets[-1])
        ends = np.cumsum(lengths, dtype=np.int64)
        with path.open("wb") as file:
            file.write(_header({"offsets": len(offsets), "ids": tokens, "supervised": tokens}))
            file.write(offsets.tobytes())
            for name in ("ids", "supervised"):
                size = np.dtype(_DTYPES[name][1]).itemsize
                with self._paths[name].open("rb") as source:
                    for start, end in _runs(chosen):
                        _copy(source, file, size * int(ends[start] - lengths[start]), size * int(ends[end - 1]))


def _header(counts: dict[str, int]) -> bytes:
    described, position = {}, 0
    for name, count in counts.items():
        kind, dtype = _DTYPES[name]
        end = position + count * np.dtype(dtype).itemsize
        described[name] = {"dtype": kind, "shape": [count], "data_offsets": [position, end]}
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return len(text).to_bytes(8, "little") + text


def _runs(chosen: Flags) -> Iterator[tuple[int, int]]:
    """Where neighbours are chosen: [start, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2):
        yield int(start), int(end)


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    """Bytes [start, end). Read and not mapped: what is mapped counts as memory of this process."""
    source.seek(start)
    for position in range(start, end, _COPIED_AT_ONCE):
        target.write(source.read(min(_COPIED_AT_ONCE, end - position)))


def _mapped(path: Path, dtype: Any, count: int, position: int = 0) -> Array:
    """[count]; nothing is read before it is used."""
    if not count:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype, mode="r", offset=position, shape=(count,))


class StoredRows(Sequence[TokenRow]):
    """Rows of one file. Each is a view of the mapped file: whoever changes one copies it first."""

    def __init__(self, ids: Array, supervised: Array, offsets: Array) -> None:
        self._ids, self._supervised, self._offsets = ids, supervised, offsets

    @classmethod
    def open(cls, path: Path) -> "StoredRows":
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        arrays = {
            name: _mapped(path, dtype, header[name]["shape"][0], 8 + size + header[name]["data_offsets"][0])
            for name, (_, dtype) in _DTYPES.items()
        }
        return cls(arrays["ids"], arrays["supervised"].view(np.bool_), np.array(arrays["offsets"]))

    @property
    def lengths(self) -> Array:
        """Tokens of each row, [rows]."""
        return np.diff(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start, end = self._offsets[position], self._offsets[position + 1]
        return TokenRow(self._ids[start:end], self._supervised[start:end])
