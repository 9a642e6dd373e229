"""Rows of JSON lines, and of one JSON list of objects. Both are read piece by piece, whatever the file's size."""

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from finetune_trainer.errors import DataError
from finetune_trainer.prepare import json_text
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.text_lines import split_lines

NumberedValues = tuple[int, dict[str, Any]]
"""The row's number, counted from 1, and its columns."""

_BLOCK = 1 << 20
_ONE_OBJECT = "the file holds an object; it must be a list of objects; put one object per line into a .jsonl file"


def read_lines(stream: BinaryIO, file: DataFile) -> Iterator[NumberedValues]:
    """One object a line; the number is the line's."""
    lines = ((number, line) for number, line in enumerate(split_lines(stream), start=1) if line.strip())
    for number, line in _several(lines, file) if file.suffix == ".json" else lines:
        yield number, _object_of_line(line, file.name, number)


def _several(lines: Iterator[tuple[int, bytes]], file: DataFile) -> Iterator[tuple[int, bytes]]:
    """All lines. Raises DataError where the file is one object and not one object a line."""
    first_two = list(itertools.islice(lines, 2))
    if first_two and not _is_whole(first_two[0][1]):
        message = "the file holds an object on several lines; it must be a list of objects, or have one object per line"
        raise DataError(message, file=file.name)
    if len(first_two) == 1:
        raise DataError(_ONE_OBJECT, file=file.name)
    return itertools.chain(first_two, lines)


def _is_whole(line: bytes) -> bool:
    try:
        json_text.decode(line.decode("utf-8-sig", "replace").lstrip())
    except json.JSONDecodeError:
        return False
    except json_text.Refused:
        return True  # which the reader of the row refuses as well
    return True


def _object_of_line(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        value, end = json_text.decode(text, _skip_blanks(text, 0))
        if (rest := _skip_blanks(text, end)) != len(text):
            raise json.JSONDecodeError("Extra data", text, rest)
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8", file=name, row=number) from None
    except json.JSONDecodeError as error:
        cure = "each line must be one complete JSON object"
        raise DataError(f"broken JSON at column {error.colno} ({error.msg}); {cure}", file=name, row=number) from None
    except json_text.Refused as error:
        raise DataError(error.message, file=name, row=number, field=error.field) from None
    return _object(value, name, number)


def _object(value: object, name: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a row must be a JSON object, this is {_kind(value)}", file=name, row=number)
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


_BLANKS = re.compile(r"[ \t\r\n]*")


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def read_array(stream: BinaryIO, file: DataFile) -> Iterator[NumberedValues]:
    """The objects of one list; the number is the position in it."""
    window = _Window(stream, file)
    window.take("[")
    number = 0
    while window.peek() != "]":
        if number:
            window.take(",")
        number += 1
        yield number, _object(window.value(number), file.name, number)
    window.take_end()


class _Window:
    """The part of a JSON text that is being read, and the place of its beginning in the file."""

    def __init__(self, stream: BinaryIO, file: DataFile) -> None:
        self._stream, self._file = stream, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes = 0
        self._text, self._position, self._at_end = "", 0, False
        self._line, self._column = 1, 1  # of the first character of the text

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            self._position = _skip_blanks(self._text, self._position)
            if self._position < len(self._text) or not self._grow(_BLOCK):
                return self._text[self._position : self._position + 1]

    def take(self, character: str) -> None:
        if self.peek() != character:
            expected = "Expecting ',' delimiter" if character == "," else "Expecting value"
            raise self._broken(expected, self._position)
        self._position += 1

    def take_end(self) -> None:
        self._position += 1
        if self.peek():
            raise self._broken("Extra data", self._position)

    def value(self, number: int) -> Any:
        """The value at the position. Args: number: of the row, for messages."""
        self.peek()
        while True:
            try:
                value, self._position = json_text.decode(self._text, self._position)
                return value
            except json.JSONDecodeError as error:
                if self._is_broken(error) or not self._grow(max(_BLOCK, len(self._text))):
                    raise self._broken(error.msg, error.pos) from None
            except json_text.Refused as error:
                raise DataError(error.message, file=self._file.name, row=number, field=error.field) from None

    def _is_broken(self, error: json.JSONDecodeError) -> bool:
        """Whether more of the text would not help."""
        is_cut_off = error.msg.startswith("Unterminated string") or len(self._text) - error.pos < _LONGEST_TOKEN
        return not is_cut_off

    def _grow(self, size: int) -> bool:
        """Reads on, and forgets what lies before the position. False at the end of the file."""
        if self._at_end:
            return False
        self._line, self._column = self._place(self._position)
        self._text, self._position = self._text[self._position :] + self._read(size), 0
        return True

    def _read(self, size: int) -> str:
        block = self._stream.read(size)
        self._at_end = not block
        held = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(block, final=self._at_end)
        except UnicodeDecodeError as error:
            byte = self._bytes - held + error.start + 1
            raise DataError(f"byte {byte} is not UTF-8; save the file as UTF-8", file=self._file.name) from None
        self._bytes += len(block)
        return text

    def _place(self, position: int) -> tuple[int, int]:
        """Line and column of a position in the text."""
        newlines = self._text.count("\n", 0, position)
        if not newlines:
            return self._line, self._column + position
        return self._line + newlines, position - self._text.rindex("\n", 0, position)

    def _broken(self, message: str, position: int) -> DataError:
        line, column = self._place(position)
        return DataError(f"broken JSON at line {line}, column {column} ({message})", file=self._file.name)


_LONGEST_TOKEN = 64
"""Characters; an error so near to the end of what was read may be due to the cut."""
