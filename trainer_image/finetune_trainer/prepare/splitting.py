"""Which training rows are held out."""

import hashlib
from collections.abc import Iterable, Sequence

from finetune_trainer.objectives.conversations import Conversation


def choose_held_out(conversations: Sequence[Conversation], fraction: float, seed: int) -> set[int]:
    """Positions of the held-out rows: `fraction` of them, at least one, but always one row left to train on.

    Rows are ranked by a hash of seed and content, so that the choice does not depend on the order of the files, and
    appending a row moves few others.
    """
    count = min(max(1, round(len(conversations) * fraction)), len(conversations) - 1) if fraction > 0 else 0
    ranked = sorted(range(len(conversations)), key=lambda index: (_rank(conversations[index], seed), index))
    return set(ranked[:count])


def overlap(train: Iterable[Conversation], held_out: Iterable[Conversation]) -> int:
    """How many different rows are on both sides."""
    return len({_content_key(row) for row in train} & {_content_key(row) for row in held_out})


def _content_key(conversation: Conversation) -> str:
    """Equal for rows that say the same."""
    return hashlib.sha256(conversation.key().encode("utf-8", "surrogatepass")).hexdigest()


def _rank(conversation: Conversation, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{_content_key(conversation)}".encode()).hexdigest()
