"""Rows of CSV: commas, double quotes, a header. Read line by line; a cell may have any size."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.errors import DataError
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.text_lines import split_lines

NumberedValues = tuple[int, dict[str, str]]

_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_csv(stream: BinaryIO, file: DataFile) -> Iterator[NumberedValues]:
    """The number of a row is that of its first line."""
    csv.field_size_limit(sys.maxsize)  # the library's limit of 131,072 characters is for the whole process
    lines = _Lines(stream)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    first_line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            _refuse_delimiters(lines.last, '"', file, first_line)
            raise DataError(f"broken CSV ({_words(error)})", file=file.name, row=first_line) from None
        if cells is None:
            return
        if header is None:
            header = _header(cells, file, first_line)
        elif cells:
            if len(cells) != len(header):
                message = f"{len(cells)} cells, but the header has {len(header)}; quote cells that contain a comma"
                raise DataError(message, file=file.name, row=first_line)
            values = dict(zip(header, cells, strict=True))
            if lines.broken:
                _refuse_bytes(values, file, first_line)
            yield first_line, values
        first_line = reader.line_num + 1


class _Lines:
    """Decoded lines. Bytes that are not UTF-8 are noted, and come through as surrogates: so their cell is found."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = split_lines(stream)
        self.broken = False
        self.last = ""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        try:
            self.last = line.decode()
        except UnicodeDecodeError:
            self.broken = True
            self.last = line.decode(errors="surrogateescape")
        return self.last


def _words(error: csv.Error) -> str:
    if "expected after" in str(error):
        return f"{error}; a quote within a quoted cell is written twice"
    return str(error)


def _header(cells: list[str], file: DataFile, row: int) -> list[str]:
    """Names of the columns. Those without a name are named by their position."""
    if len(cells) == 1:
        _refuse_delimiters(cells[0], "", file, row)
    names = [cell or f"column {position}" for position, cell in enumerate(cells, start=1)]
    _refuse_bytes(dict.fromkeys(names, ""), file, row)
    for name, count in Counter(names).items():
        if count > 1:
            message = f"the header names this column {count} times; rename or remove all but one"
            raise DataError(message, file=file.name, row=row, field=name)
    return names


def _refuse_delimiters(line: str, quote: str, file: DataFile, row: int) -> None:
    for delimiter, name in _OTHER_DELIMITERS.items():
        if f"{quote}{delimiter}{quote}" in line:
            message = f"the cells are separated by {name}; save the file with commas between them"
            raise DataError(message, file=file.name, row=row)


def _refuse_bytes(values: dict[str, str], file: DataFile, row: int) -> None:
    for name, cell in values.items():
        for text in (name, cell):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                column = name.encode(errors="replace").decode()
                byte = len(text[: error.start].encode()) + 1
                message = f"byte {byte} is not UTF-8; save the file as UTF-8"
                raise DataError(message, file=file.name, row=row, field=column) from None
