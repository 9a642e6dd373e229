"""How a conversation is put to a chat template.

Templates differ in what they expect of an answer that calls tools or thinks. The first spelling is transformers' own;
another is tried where a template fails on it or leaves something of an answer out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from finetune_trainer.objectives.conversations import Conversation, Message

Messages = list[dict[str, Any]]


def spellings(conversation: Conversation, template: str) -> Iterator[Messages]:
    """The messages of a conversation, in each spelling that makes a difference for it."""
    messages = conversation.messages
    calls = any(message.tool_calls for message in messages)
    wordless = any(message.tool_calls and not message.content for message in messages)
    thinks = any(message.reasoning for message in messages)
    # Only a template that knows the tag itself was learned with thoughts in the text.
    tags = thinks and "</think>" in template
    for inline, quoted, null in product(_choices(tags), _choices(calls), _choices(wordless)):
        spelling = _Spelling(inline, quoted, null)
        yield [spelling.of(message) for message in messages]


def _choices(matters: bool) -> tuple[bool, ...]:
    return (False, True) if matters else (False,)


@dataclass(frozen=True)
class _Spelling:
    """
    Args:
        inline: a thought stands in the content, between tags.
        quoted: the arguments of a call are a string of JSON.
        null: the content of an answer that only calls tools is null.
    """

    inline: bool
    quoted: bool
    null: bool

    def of(self, message: Message) -> dict[str, Any]:
        spelled = message.as_dict()
        if message.reasoning:
            spelled["thinking"] = message.reasoning  # gpt-oss's name for it; transformers gives both as well
        if self.inline and message.reasoning:
            del spelled["reasoning_content"], spelled["thinking"]
            thought = f"<think>\n{message.reasoning.strip()}\n</think>\n\n"
            spelled["content"] = thought + message.content
        if message.tool_calls and self.quoted:
            spelled["tool_calls"] = [_quoted(call) for call in message.tool_calls]
        if message.tool_calls and self.null and not spelled["content"]:
            spelled["content"] = None
        return spelled


def _quoted(call: Any) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
