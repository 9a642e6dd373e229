"""Log lines: whatever is slow reports what it is doing."""

from collections.abc import Callable

Report = Callable[[str], None]
"""Takes one line."""


def to_stdout(line: str) -> None:
    print(line, flush=True)


def discard(line: str) -> None:
    """For the other ranks, which would report the same, and where standard output belongs to a program."""


def from_rank_zero(rank: int) -> Report:
    return to_stdout if rank == 0 else discard
