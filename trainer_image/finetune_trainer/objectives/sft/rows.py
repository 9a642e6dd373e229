"""Conversations to token ids, with a mask of what is learned.

The mask comes from text positions: the whole conversation is rendered and tokenised once, exactly as it is when the
model is served, and the spans of the answers are looked up in it. An answer's span comes from prefix rendering: what
the template adds to "all before it + the generation prompt". It reaches to the token that ends the turn and includes
it, or the model would never learn to stop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from finetune_trainer.prepare.formats import Conversation

Ids = np.ndarray[Any, np.dtype[np.int32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class TokenRow:
    ids: Ids
    """Token ids, [tokens]."""
    supervised: Mask
    """True where the token is learned, [tokens]."""

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Renderer:
    """Renders with one tokenizer and one template.

    Args:
        train_on_prompt: learn every token, not the answers only.
        mask_history: learn only the last answer of a conversation.
    """

    tokenizer: Any
    template: str
    train_on_prompt: bool = False
    mask_history: bool = False

    def render(self, conversations: Sequence[Conversation]) -> Iterator[TokenRow]:
        """Token rows, in order. Raises DataError when the template does not take a conversation."""
        texts = [self._text(conversation, conversation.messages) for conversation in conversations]
        spans = [
            self._answer_spans(conversation, text) for conversation, text in zip(conversations, texts, strict=True)
        ]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for ids, offsets, spans_of_row in zip(encoded["input_ids"], encoded["offset_mapping"], spans, strict=True):
            yield self._token_row(ids, offsets, spans_of_row)

    def prompt(self, conversation: Conversation) -> str:
        """Text up to the last answer, as it is given to the model when it is asked."""
        return self._text(conversation, conversation.messages[:-1], add_generation_prompt=True)

    def end_of_turn(self, conversation: Conversation) -> int:
        """The token that ends an answer: where generation has to stop."""
        answer = Renderer(self.tokenizer, self.template, mask_history=True)
        row = next(answer.render([conversation]))
        return int(row.ids[row.supervised][-1])

    def _token_row(self, ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> TokenRow:
        starts = np.fromiter((start for start, _ in offsets), np.int64, len(offsets))
        ends = np.fromiter((end for _, end in offsets), np.int64, len(offsets))
        row, supervised = np.asarray(ids, np.int32), np.full(len(ids), self.train_on_prompt)
        for start, end in spans:
            answer = (starts >= start) & (ends <= end)
            supervised |= answer
        last = int(np.flatnonzero(answer)[-1]) if answer.any() else -1
        if last >= 0 and not self._ends_turn(int(row[last])):
            row = np.append(row[: last + 1], np.int32(self.tokenizer.eos_token_id))
            supervised = np.append(supervised[: last + 1], True)
        return TokenRow(row, supervised)

    def _ends_turn(self, token: int) -> bool:
        # Templates without an end-of-turn token of their own get the model's end-of-text token.
        added = self.tokenizer.added_tokens_decoder
        return token in added or token in self.tokenizer.all_special_ids

    def _answer_spans(self, conversation: Conversation, text: str) -> list[tuple[int, int]]:
        answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if self.mask_history:
            answers = answers[-1:]
        return [self._answer_span(conversation, text, index) for index in answers]

    def _answer_span(self, conversation: Conversation, text: str, index: int) -> tuple[int, int]:
        """Characters [start, end) of one answer in the rendered text, end-of-turn token included."""
        messages = conversation.messages
        before = self._text(conversation, messages[:index], add_generation_prompt=True)
        through = text if index == len(messages) - 1 else self._text(conversation, messages[: index + 1])
        if not (text.startswith(before) and text.startswith(through)):
            message = "the chat template rewrites earlier messages, so that an answer cannot be told from its prompt"
            raise conversation.error(f"{message}; set spec.dataset.maskHistory, or use another template")
        # Blanks after the end-of-turn token are the template's, not the model's.
        return len(before), len(through.rstrip()) if len(through.rstrip()) > len(before) else len(through)

    def _text(self, conversation: Conversation, messages: Sequence[Any], *, add_generation_prompt: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [message.as_dict() for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise conversation.error(f"the chat template refuses this conversation: {error.message}") from None
        return str(text)
