"""Conversations as the text that a model sees: one tokenizer, one chat template.

The same for every objective that learns from conversations, and for asking a model afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from finetune_trainer.objectives.conversations import Conversation, Message

Positions = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Encoded:
    """A rendered conversation as tokens, each with its character offsets in the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def within(self, span: tuple[int, int]) -> Positions:
        """True on tokens that lie within the characters [start, end), [tokens]."""
        starts = np.fromiter((start for start, _ in self.offsets), np.int64, len(self.offsets))
        ends = np.fromiter((end for _, end in self.offsets), np.int64, len(self.offsets))
        return (starts >= span[0]) & (ends <= span[1])


@dataclass(frozen=True)
class Chat:
    tokenizer: Any
    template: str

    def text(self, conversation: Conversation) -> str:
        """The whole conversation. Raises DataError when the template rejects it."""
        return self._render(conversation, conversation.messages)

    def prompt(self, conversation: Conversation) -> str:
        """Text up to the last answer, generation prompt included: what a model is asked with."""
        return self._render(conversation, conversation.messages[:-1], add_generation_prompt=True)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        return [Encoded(*pair) for pair in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def answer_span(self, conversation: Conversation, text: str, index: int) -> tuple[int, int]:
        """Characters [start, end) of one answer in the rendered text, end-of-turn token included.

        By prefix rendering: an answer is what the template adds to "everything before it + the generation prompt".

        Args:
            index: of the answer among the conversation's messages.
        """
        messages = conversation.messages
        before = self._render(conversation, messages[:index], add_generation_prompt=True)
        through = text if index == len(messages) - 1 else self._render(conversation, messages[: index + 1])
        if not (text.startswith(before) and text.startswith(through)):
            message = "the chat template rewrites earlier messages, so an answer cannot be separated from its prompt"
            raise conversation.error(f"{message}; set spec.dataset.maskHistory, or use another template")
        # Blanks after the end-of-turn token are the template's, not the model's.
        return len(before), len(through.rstrip()) if len(through.rstrip()) > len(before) else len(through)

    def ends_turn(self, token: int) -> bool:
        return token in self.tokenizer.added_tokens_decoder or token in self.tokenizer.all_special_ids

    def end_of_turn(self, conversation: Conversation) -> int:
        """The token that ends an answer: where generation has to stop. The model's end-of-text token where the template
        has no end-of-turn token of its own."""
        text = self.text(conversation)
        [encoded] = self.encode([text])
        answer = encoded.within(self.answer_span(conversation, text, len(conversation.messages) - 1))
        last = encoded.ids[int(np.flatnonzero(answer)[-1])]
        return last if self.ends_turn(last) else int(self.tokenizer.eos_token_id)

    def _render(
        self, conversation: Conversation, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [message.as_dict() for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise conversation.error(f"the chat template rejects this conversation: {error.message}") from None
        return str(text)
