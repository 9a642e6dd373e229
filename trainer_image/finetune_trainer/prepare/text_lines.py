"""Lines of a binary stream. Only LF, CRLF and CR end one: U+2028, U+2029 and U+0085 are characters of a text."""

from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.prepare.content import BOM

_BLOCK = 1 << 20


def split_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Each line with its end; without a byte order mark at the beginning of the stream."""
    pending: list[bytes] = []
    first = True
    while block := stream.read(_BLOCK):
        if first:
            block, first = block.removeprefix(BOM), False
        if pending and pending[-1].endswith(b"\r"):
            block = pending.pop() + block  # this CR may be half of a CRLF
        *lines, rest = _lines_and_rest(block)
        if lines:
            yield b"".join([*pending, lines[0]])
            yield from lines[1:]
            pending = []
        if rest:
            pending.append(rest)
    if pending:
        yield b"".join(pending)


def _lines_and_rest(block: bytes) -> list[bytes]:
    """The last one is not a whole line: empty when the block ends with LF."""
    lines = block.splitlines(keepends=True)
    return [*lines, b""] if block.endswith(b"\n") else lines
