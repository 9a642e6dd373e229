"""JSON as Python values, with what Python's parser lets through refused: keys that appear twice, halves of characters.

Knows no file: `Refused` says what is wrong and in which field.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 200
"""Levels of lists and objects."""


class Refused(ValueError):
    """
    Args:
        field: as `messages[1].content`; None where it is not known.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused("the key appears twice in one object; remove one of them", twice)
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends.

    Raises:
        Refused: it is JSON, and not usable.
        json.JSONDecodeError: it is not JSON, or not all of it is there.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (Refused, json.JSONDecodeError):
        raise
    except ValueError:
        raise Refused("a number has too many digits; write it as a string", _field_of_number(text, start)) from None
    except RecursionError:
        raise _too_deep(text, start) from None
    if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH:
        _check_depth(text, start, end)
    if _SURROGATE.search(text, start, end):
        check_characters(value)
    return value, end


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a character, as an escape; most have their other half."""


def check_characters(value: Any) -> None:
    """Raises Refused for text that no encoding can write: half of a character."""
    for field, text in _texts(value, ""):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                half = f"U+{ord(text[error.start]):04X}"
                message = f"character {error.start + 1} is half of a character ({half}); remove it, or write both"
                raise Refused(message, field or None) from None


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, keys included, each with its place."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{field}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            place = f"{field}.{key}" if field else key
            yield ascii(place)[1:-1], key
            yield from _texts(item, place)


_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def _check_depth(text: str, start: int, end: int) -> None:
    if _depth_and_field(text, start, end)[0] > MAX_DEPTH:
        raise _too_deep(text, start)


def _too_deep(text: str, start: int) -> Refused:
    message = f"lists and objects are nested more than {MAX_DEPTH} levels deep; store it flatter, or as text"
    return Refused(message, _depth_and_field(text, start, len(text))[1])


def _depth_and_field(text: str, start: int, end: int) -> tuple[int, str | None]:
    """How deep the value goes (at most one more than is allowed), and the key of the row in which it does."""
    depth, field = 0, None
    for token in _STRUCTURE.finditer(text, start, end):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif depth == 1:
            field = token[0][1:-1]
        if depth > MAX_DEPTH:
            return depth, field
    return 0, field


class _Long(str):
    """A number of more digits than Python converts."""


def _field_of_number(text: str, start: int) -> str | None:
    def number(digits: str) -> Any:
        try:
            return int(digits)
        except ValueError:
            return _Long(digits)

    try:
        value, _ = json.JSONDecoder(parse_int=number).raw_decode(text, start)
    except RecursionError:
        return None
    return next((field for field, found in _texts(value, "") if isinstance(found, _Long)), None)
