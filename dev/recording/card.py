"""A sample of a model card: enough to see what it holds, short enough for a README."""

from __future__ import annotations

import re

SECTIONS = ("How to use it", "Results", "Sample answers")
SAMPLES = 2


def sample(card: str) -> str:
    """The front matter, the head and the sections named above, with the first two sample answers."""
    head, *sections = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    chosen = [section for section in sections if section.startswith(tuple(f"## {title}\n" for title in SECTIONS))]
    if not chosen:
        raise ValueError(f"no section {' or '.join(SECTIONS)}: this is not the README.md of an adapter")
    return "\n".join(part.strip() + "\n" for part in (head, *map(_shortened, chosen)))


def _shortened(section: str) -> str:
    """Without the answers after the second one."""
    before, *answers = re.split(r"^(?=\*\*)", section, flags=re.MULTILINE)
    return before + "".join(answers[:SAMPLES])
