"""Reads rows from .jsonl, .json, .csv and .parquet, each with its place in the file.

Knows files and rows, not what a row means (formats.py does). Errors name file and row.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Row:
    """One row as its file has it."""

    file: str
    """As the user names it: the source, and the path below it where the source is a folder."""
    number: int
    """Counts from 1. A line number in .jsonl and .csv (of the row's first line), else the row's position."""
    values: dict[str, Any]


@dataclass(frozen=True)
class DataFile:
    path: Path
    name: str
    """What messages call it."""


def find_files(source: str, local: Path, field: str) -> list[DataFile]:
    """The data files behind one source: the file itself, or those in a folder, sorted by name.

    Raises:
        ConfigurationError: there is none, or its suffix is not supported.
    """
    if local.is_file():
        if local.suffix.lower() not in _READERS:
            raise ConfigurationError(f"{source} is none of {', '.join(_READERS)}", field=field)
        return [DataFile(local, source)]
    found = sorted(path for path in local.rglob("*") if path.is_file() and path.suffix.lower() in _READERS)
    if not found:
        raise ConfigurationError(f"there is no {', '.join(_READERS)} file under {source}", field=field)
    return [DataFile(path, f"{source.rstrip('/')}/{path.relative_to(local).as_posix()}") for path in found]


def read_rows(file: DataFile) -> Iterator[Row]:
    """Rows of one file, in order.

    Raises:
        DataError: the file or one of its rows cannot be read.
    """
    return _READERS[file.path.suffix.lower()](file)


def _read_jsonl(file: DataFile) -> Iterator[Row]:
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Row(file.name, number, _json_object(line, file.name, number))


def _json_object(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8", file=name, row=number) from None
    except json.JSONDecodeError as error:
        cure = "each line must be one complete JSON object"
        raise DataError(f"broken JSON at column {error.colno} ({error.msg}); {cure}", file=name, row=number) from None
    return _object(value, name, number)


def _object(value: object, name: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a row must be a JSON object, this is {_kind(value)}", file=name, row=number)
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _read_json(file: DataFile) -> Iterator[Row]:
    try:
        rows = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON at line {error.lineno}, column {error.colno} ({error.msg})", file=file.name
        ) from None
    if not isinstance(rows, list):
        cure = "it must be a list of objects; put one object per line into a .jsonl file"
        raise DataError(
            f"the file holds {'an object' if isinstance(rows, dict) else _kind(rows)}; {cure}", file=file.name
        )
    for number, value in enumerate(rows, start=1):
        yield Row(file.name, number, _object(value, file.name, number))


def _read_csv(file: DataFile) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    header: list[str] | None = None
    first_line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"broken CSV ({error})", file=file.name, row=first_line) from None
        if cells is None:
            return
        if header is None:
            header = cells
        elif cells:
            if len(cells) != len(header):
                message = f"{len(cells)} cells, but the header has {len(header)}; quote cells that contain a comma"
                raise DataError(message, file=file.name, row=first_line)
            yield Row(file.name, first_line, dict(zip(header, cells, strict=True)))
        first_line = reader.line_num + 1


def _text(file: DataFile) -> str:
    try:
        return file.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8", file=file.name) from None


def _read_parquet(file: DataFile) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            number = 0
            for batch in parquet.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file.name, number, values)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({str(error).splitlines()[0]})", file=file.name) from None


_READERS: dict[str, Callable[[DataFile], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
