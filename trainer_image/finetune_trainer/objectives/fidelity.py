"""Does a rendering say what the row says? Other blanks are remarked; nothing else of an answer may be lost."""

import json
from collections.abc import Iterator
from typing import Any

from finetune_trainer.objectives.conversations import Message

TRIMMED = "text loses blanks at its edges in the chat template"
REFLOWED = "text has other blanks or another order in the chat template"


def lost(message: Message, prompt: str, answer: str) -> str | None:
    """What of an answer is in neither its rendering nor the end of its prompt: a name of the row's. None if nothing.

    Args:
        prompt: all text before the answer. It may open the answer's thought.
        answer: the text that is learned.
    """
    if not message.reasoning and not message.tool_calls and message.content in answer:
        return None
    tail = _Squeezed(answer, prompt)
    thought, text = message.thought_and_text()
    if not tail.has(thought):
        return "reasoning_content" if message.reasoning else "content (its thought)"
    if not tail.has(text):
        return "content"
    for call in message.tool_calls:
        if missing := next((leaf for leaf in _leaves(call["function"]) if not tail.has_any(leaf)), None):
            return f"tool_calls ({missing[0]!r})"
    return None


def difference(message: Message, text: str) -> str | None:
    """The kind of difference between a message and the text that was rendered of it. None if there is none."""
    content = message.content
    if content in text:
        return None
    return TRIMMED if content.strip() in text else REFLOWED


def is_shown(content: str, text: str) -> bool:
    """Is all of a message but its blanks in a text?"""
    return content in text or content.strip() in text or _squeeze(content) in _squeeze(text)


class _Squeezed:
    """An answer without its blanks, and the prompt before it."""

    def __init__(self, answer: str, prompt: str) -> None:
        self._answer = _squeeze(answer)
        self._prompt = prompt

    def has(self, text: str) -> bool:
        needle = _squeeze(text)
        if needle in self._answer:
            return True
        # What the prompt begins, the answer may end.
        before = _squeeze(self._prompt)
        return (before + self._answer).rfind(needle) + len(needle) > len(before) and needle in before + self._answer

    def has_any(self, spellings: tuple[str, ...]) -> bool:
        return any(_squeeze(spelling) in self._answer for spelling in spellings)


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
