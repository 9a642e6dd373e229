"""Which conversations are held out. Decided on 32 bytes of each, whatever their length."""

import hashlib
from typing import Any

import numpy as np

from finetune_trainer.objectives.conversations import Conversation

Keys = np.ndarray[Any, np.dtype[np.uint8]]
"""What conversations say, [conversations, 32]."""
Choice = np.ndarray[Any, np.dtype[np.bool_]]
"""True on what is held out."""


def content_key(conversation: Conversation) -> bytes:
    """Equal for rows that say the same; 32 bytes."""
    return hashlib.sha256(conversation.key().encode("utf-8", "surrogatepass")).digest()


def choose_held_out(keys: Keys, fraction: float, seed: int) -> Choice:
    """`fraction` of the conversations, at least one, but always one left to train on. [conversations]

    They are ranked by a hash of seed and content, so that the choice does not depend on the order of the files, and
    appending a row moves few others.
    """
    count = min(max(1, round(len(keys) * fraction)), len(keys) - 1) if fraction > 0 else 0
    chosen = np.zeros(len(keys), np.bool_)
    chosen[_order(keys, seed)[:count]] = True
    return chosen


def overlap(train: Keys, held_out: Keys) -> int:
    """How many different conversations are on both sides."""
    return len(np.intersect1d(_as_strings(train), _as_strings(held_out)))


def _as_strings(keys: Keys) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(keys).view("S32").ravel()


def _order(keys: Keys, seed: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Positions by rank, equal ones as they come."""
    ranks = b"".join(hashlib.sha256(f"{seed}:{key.tobytes().hex()}".encode()).digest() for key in keys)
    words = np.frombuffer(ranks, ">u8").reshape(-1, 4)
    return np.lexsort(words.T[::-1])
