"""A row of text, independent of the format of its file: messages of alternating roles."""

from dataclasses import dataclass
from typing import Literal

from finetune_trainer.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Conversation:
    """At least one question with an answer; the last message is an answer."""

    file: str
    number: int
    messages: tuple[Message, ...]

    def error(self, message: str, field: str | None = None) -> DataError:
        return DataError(message, file=self.file, row=self.number, field=field)
