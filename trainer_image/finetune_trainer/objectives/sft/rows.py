"""Conversations to token ids, with a mask of what is learned. Needs no torch.

The mask comes from text positions: a conversation is rendered and tokenised exactly as it is when the model is served,
and the spans of the answers are looked up in it. A span reaches to the token that ends the turn and includes it, or
the model would never learn to stop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.objectives.answers import Lesson, Trained, lesson
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
        """One result for each conversation, in order.

        Raises:
            DataError: the template rejects a conversation, or leaves something of an answer out.
        """
        lessons = [lesson(self.chat, conversation, self._turns(conversation)) for conversation in conversations]
        encoded = iter(self.chat.encode([trained.text for each in lessons for trained in each.texts]))
        for conversation, each in zip(conversations, lessons, strict=True):
            yield self._rendered(conversation, each, [next(encoded) for _ in each.texts])

    def _turns(self, conversation: Conversation) -> list[int]:
        """Positions of the answers to learn."""
        messages = conversation.messages
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        if self.mask_history:
            answers = answers[-1:]
        learned = [index for index in answers if messages[index].learned]
        if not learned:
            cure = "give it weight 1, or set spec.dataset.maskHistory to false"
            raise conversation.error(f"the last answer is not to be learned; {cure}", messages[-1].place or None)
        return learned

    def _rendered(self, conversation: Conversation, each: Lesson, encoded: Sequence[Encoded]) -> Rendered:
        rows = [self._token_row(*pair) for pair in zip(each.texts, encoded, strict=True)]
        if self.train_on_prompt:
            rows = [TokenRow(row.ids, self._fresh(rows[:index], row)) for index, row in enumerate(rows)]
        # The last row has all that was said before.
        return Rendered(rows, rows[-1].length, (*conversation.remarks, *each.remarks))

    def _token_row(self, trained: Trained, encoded: Encoded) -> TokenRow:
        row, supervised = encoded.ids, encoded.within(trained.spans)
        is_last = not trained.text[trained.spans[-1][1] :].strip()
        last = int(np.flatnonzero(supervised)[-1]) if supervised.any() else -1
        if is_last and last >= 0 and not self.chat.ends_turn(int(row[last]), trained.closed):
            # Templates without an end-of-turn token of their own get the model's end-of-text token.
            row = np.append(row[: last + 1], np.int32(self.chat.tokenizer.eos_token_id))
            supervised = np.append(supervised[: last + 1], True)
        return TokenRow(row, supervised)

    @staticmethod
    def _fresh(before: Sequence[TokenRow], row: TokenRow) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """True on all tokens that the row before did not have."""
        fresh = np.ones(row.length, np.bool_)
        if before:
            length = min(row.length, before[-1].length)
            differs = np.flatnonzero(row.ids[:length] != before[-1].ids[:length])
            fresh[: differs[0] if len(differs) else length] = False
        return fresh
