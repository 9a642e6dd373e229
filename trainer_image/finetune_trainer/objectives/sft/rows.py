"""Conversations to token ids, with a mask of what is learned. Needs no torch.

The mask comes from text positions: the whole conversation is rendered and tokenised once, exactly as it is when the
model is served, and the spans of the answers are looked up in it. A span reaches to the token that ends the turn and
includes it, or the model would never learn to stop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.objectives.chat import Chat, Encoded
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import Rendered, TokenRow


def learned_tokens(row: TokenRow) -> int:
    """The first token is predicted from nothing, so it is never learned."""
    return int(np.count_nonzero(row.supervised[1:]))


@dataclass(frozen=True)
class AnswerRenderer:
    """
    Args:
        train_on_prompt: learn every token, not the answers only.
        mask_history: learn only the last answer of a conversation.
    """

    chat: Chat
    train_on_prompt: bool = False
    mask_history: bool = False

    def render(self, conversations: Sequence[Conversation]) -> Iterator[Rendered]:
        """One result for each conversation, in order. Raises DataError when the template rejects one."""
        texts = [self.chat.text(conversation) for conversation in conversations]
        spans = [
            self._answer_spans(conversation, text) for conversation, text in zip(conversations, texts, strict=True)
        ]
        for encoded, spans_of_row in zip(self.chat.encode(texts), spans, strict=True):
            row = self._token_row(encoded, spans_of_row)
            yield Rendered([row], row.length)

    def _token_row(self, encoded: Encoded, spans: list[tuple[int, int]]) -> TokenRow:
        row, supervised = np.asarray(encoded.ids, np.int32), np.full(len(encoded.ids), self.train_on_prompt)
        for span in spans:
            answer = encoded.within(span)
            supervised |= answer
        last = int(np.flatnonzero(answer)[-1]) if answer.any() else -1
        if last >= 0 and not self.chat.ends_turn(int(row[last])):
            # Templates without an end-of-turn token of their own get the model's end-of-text token.
            row = np.append(row[: last + 1], np.int32(self.chat.tokenizer.eos_token_id))
            supervised = np.append(supervised[: last + 1], True)
        return TokenRow(row, supervised)

    def _answer_spans(self, conversation: Conversation, text: str) -> list[tuple[int, int]]:
        answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
        if self.mask_history:
            answers = answers[-1:]
        return [self.chat.answer_span(conversation, text, index) for index in answers]
