"""A row of text, independent of the format of its file: messages of alternating roles."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.remarks import Remark

Role = Literal["system", "user", "assistant", "tool"]

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


@dataclass(frozen=True)
class Message:
    role: Role
    content: str
    """Empty where an answer is tool calls alone."""
    reasoning: str = ""
    """The thought before an answer, where the row has it beside the content."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """As OpenAI has them; `function.arguments` is an object."""
    name: str | None = None
    tool_call_id: str | None = None
    learned: bool = True
    """False for an answer of weight 0."""
    place: str = field(default="", compare=False)
    """Where the row has it, for error messages."""

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it, without what is not there."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    def thought_and_text(self) -> tuple[str, str]:
        """The thought, wherever the row has it, and what is said after it."""
        if not self.reasoning and (match := _THOUGHT.fullmatch(self.content)):
            return match[1].strip(), match[2].strip()
        return self.reasoning.strip(), self.content.strip()


@dataclass(frozen=True)
class Conversation:
    """At least one question with an answer; the last message is an answer."""

    file: str
    number: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """What the assistant may call: JSON schemas as OpenAI has them."""
    remarks: tuple[Remark, ...] = field(default=(), compare=False)
    """What of the row is not used."""

    def key(self) -> str:
        """Equal for rows that say the same."""
        parts = [f"{message.role}\x01{message.content}{_details(message)}" for message in self.messages]
        return "\x00".join([*parts, *(json.dumps(tool, sort_keys=True) for tool in self.tools)])

    def error(self, message: str, field: str | None = None) -> DataError:
        return DataError(message, file=self.file, row=self.number, field=field)


def _details(message: Message) -> str:
    details = {key: value for key, value in message.as_dict().items() if key not in {"role", "content"}}
    return f"\x01{json.dumps(details, sort_keys=True)}" if details else ""
