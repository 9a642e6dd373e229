"""Does a rendering say what the row says? Other blanks are remarked; nothing else of an answer may be lost."""

import json
from collections.abc import Iterator
from typing import Any

from finetune_trainer.objectives.conversations import Message

TRIMMED = "text loses blanks at its edges in the chat template"
_TAKEN = "\0"
REFLOWED = "text has other blanks or another order in the chat template"


def lost(message: Message, prompt: str, answer: str) -> str | None:
    """What of an answer is in neither its rendering nor the end of its prompt: a name of the row's. None if nothing.

    Args:
        prompt: all text before the answer. It may open the answer's thought.
        answer: the text that is learned.
    """
    if not message.reasoning and not message.tool_calls and message.content in answer:
        return None
    rest = _Rest(answer, prompt)
    thought, text = message.thought_and_text()
    if not rest.take(thought):
        return "reasoning_content" if message.reasoning else "content (its thought)"
    if not rest.take(text):
        return "content"
    # The longest first: a short one may be a part of it.
    leaves = sorted(_leaves([call["function"] for call in message.tool_calls]), key=lambda leaf: -len(leaf[0]))
    missing = next((leaf for leaf in leaves if not rest.take_any(leaf)), None)
    return f"tool_calls ({missing[0]!r})" if missing else None


def difference(message: Message, text: str) -> str | None:
    """The kind of difference between a message and the text that was rendered of it. None if there is none."""
    content = message.content
    if content in text:
        return None
    return TRIMMED if content.strip() in text else REFLOWED


def is_shown(content: str, text: str) -> bool:
    """Is all of a message but its blanks in a text?"""
    return content in text or content.strip() in text or _squeeze(content) in _squeeze(text)


class _Rest:
    """What of an answer, without its blanks, is not accounted for yet."""

    def __init__(self, answer: str, prompt: str) -> None:
        self._text = _squeeze(answer)
        self._from = 0
        """Behind the last that was taken."""
        self._prompt = prompt

    def take(self, text: str) -> bool:
        """Takes the first occurrence behind what was taken before; what the prompt begins, the answer may end."""
        needle = _squeeze(text)
        start = self._text.find(needle, self._from)
        if start < 0 and self._from == 0:
            return self._take_behind_prompt(needle)
        if start < 0:
            return False
        self._text = self._text[:start] + _TAKEN + self._text[start + len(needle) :]
        self._from = start + len(_TAKEN)
        return True

    def _take_behind_prompt(self, needle: str) -> bool:
        before = _squeeze(self._prompt)[-len(needle) :]
        start = (before + self._text).find(needle)
        if start < 0:
            return False
        self._text = (before + self._text)[start + len(needle) :]
        return True

    def take_any(self, spellings: tuple[str, ...]) -> bool:
        """Takes one of the spellings, wherever it is."""
        needle = next((needle for needle in map(_squeeze, spellings) if needle in self._text), None)
        if needle is None:
            return False
        self._text = self._text.replace(needle, _TAKEN, 1)
        return True


def _leaves(value: Any) -> Iterator[tuple[str, ...]]:
    """Each name and value of a call, in the spellings that templates have for it."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in {"name", "arguments"}:
                yield _written(key)
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield _written(value)


def _written(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
    return json.dumps(value), str(value)


def _squeeze(text: str) -> str:
    return "".join(text.split())
