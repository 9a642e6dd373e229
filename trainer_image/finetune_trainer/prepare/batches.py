"""The rows of files, a few at a time, in the order of the files. Needs no storage: workers import it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.prepare.content import Moved
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.formats import Format, detect_format, parse
from finetune_trainer.prepare.readers import Row, read_rows
from finetune_trainer.rank.reporting import Report

_ROWS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Batch:
    """Neighbouring rows of one file."""

    rows: list[Row]
    format: Format

    def conversations(self) -> list[Conversation]:
        """Raises DataError for a row that is none."""
        return [parse(row, self.format) for row in self.rows]

    def conversation(self, index: int) -> Conversation:
        return parse(self.rows[index], self.format)


def read(
    files: Sequence[DataFile], wanted: str, most_rows: int | None, report: Report, moved: Moved = lambda count: None
) -> Iterator[Batch]:
    """All rows, a few at a time.

    Args:
        wanted: `spec.dataset.format`.
        most_rows: reading ends after so many.
        moved: is told of bytes as they are read.

    Raises:
        DataError: a file cannot be read, or has no known columns.
    """
    left = sys.maxsize if most_rows is None else most_rows
    for file in files:
        name: Format | None = None
        rows = islice(read_rows(file, moved), left)
        while batch := _take(rows):
            left -= len(batch)
            if name is None:
                name = detect_format(batch[0]) if wanted == "auto" else wanted  # type: ignore[assignment]
                report(f"{file.name}: format {name}{' (detected by its columns)' if wanted == 'auto' else ''}")
            yield Batch(batch, name)  # type: ignore[arg-type]
        if name is None and left:
            report(f"warning: {file.name} has no row")
        if not left:
            return


def _take(rows: Iterator[Row]) -> list[Row]:
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        size += _characters(row.values)
        if len(taken) == _ROWS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
            break
    return taken


def _characters(value: Any) -> int:
    """About how much text there is."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return 1
    return sum([_characters(item) for item in value])
