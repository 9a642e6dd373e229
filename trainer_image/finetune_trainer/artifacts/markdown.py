"""Markdown from text that others wrote: rows, file names, answers. Whatever it contains, it is shown and not obeyed."""

import html
import re
from collections.abc import Iterable, Mapping

_SIGNS = re.compile(r"[\\`*_{}\[\]#|~$@^]|(?<=\w):(?=//)|(?<=www)\.")
"""What starts something in the middle of a line, and what makes a link of an address."""


def plain(text: str) -> str:
    """As a part of one line: every sign that Markdown or HTML could read as more than itself is escaped."""
    return _SIGNS.sub(lambda sign: "\\" + sign[0], html.escape(" ".join(text.split()), quote=False))


def code(text: object) -> str:
    line = " ".join(str(text).split())
    ticks = _longer_than_any(line, 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(text: str, language: str = "") -> str:
    fence = _longer_than_any(text, 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are Markdown already; a bar in them stays in its cell."""
    names = list(head)
    cells = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in (names, ["---"] * len(names), *cells))


def facts(rows: Mapping[str, str]) -> str:
    """Two columns: what, and its value. Empty values are left out."""
    return table(("", ""), [(name, value) for name, value in rows.items() if value])


def _longer_than_any(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(least, longest + 1)
