"""Reads the rows of data files, each with its place in the file.

Knows files and rows, not what a row means (formats.py does). Errors name file and row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_trainer.prepare.content import Moved, kind_of, open_unpacked, reading
from finetune_trainer.prepare.csv_rows import read_csv
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.json_rows import read_array, read_lines
from finetune_trainer.prepare.parquet_rows import read_parquet


@dataclass(frozen=True)
class Row:
    """One row as its file has it."""

    file: str
    """As the user names it: the source, and the path below it where the source is a folder."""
    number: int
    """Counts from 1. A line number where a row is a line (JSON lines, CSV: of its first line), else its position."""
    values: dict[str, Any]


def read_rows(file: DataFile, moved: Moved = lambda count: None) -> Iterator[Row]:
    """Rows of one file, in order, a part of the file at a time.

    Args:
        moved: is told of bytes as they are read.

    Raises:
        DataError: the file or one of its rows cannot be read.
        Transient: the disk or the network behind it fails.
    """
    for number, values in _numbered(file, moved):
        yield Row(file.name, number, values)


def _numbered(file: DataFile, moved: Moved) -> Iterator[tuple[int, dict[str, Any]]]:
    kind = kind_of(file)
    if kind is None:
        return
    if kind == "parquet":
        yield from read_parquet(file, moved)
        return
    read = {"json lines": read_lines, "json array": read_array, "csv": read_csv}[kind]
    with reading(file), open_unpacked(file, moved) as stream:
        yield from read(stream, file)
