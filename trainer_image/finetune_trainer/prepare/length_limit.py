"""Truncates or rejects rows that are longer than `spec.training.maxLength`."""

from collections.abc import Iterable, Iterator

from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import Objective, TokenRow


class LengthLimit:
    """All rows are measured before one is rejected, so that one message says how far to raise the limit.

    Args:
        tokens: of the longest row allowed.
        truncate: cut longer rows instead of rejecting them.
    """

    def __init__(self, tokens: int, *, truncate: bool, objective: Objective) -> None:
        self._tokens = tokens
        self._truncate = truncate
        self._objective = objective
        self._first: tuple[Conversation, int] | None = None
        self._longest = 0
        self._count = 0
        self.truncated = 0

    def apply(self, conversations: Iterable[Conversation], rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        """The rows, truncated where necessary. Raises DataError for a row that nothing can be learned from."""
        for conversation, row in zip(conversations, rows, strict=True):
            if row.length > self._tokens and not self._truncate:
                self._first = self._first or (conversation, row.length)
                self._longest = max(self._longest, row.length)
                self._count += 1
            yield self._within_limit(conversation, row)

    def check(self) -> None:
        """Raises DataError when rows were too long."""
        if self._first is None:
            return
        conversation, length = self._first
        rest = f" ({self._count:,} rows are too long, the longest has {self._longest:,})" if self._count > 1 else ""
        raise conversation.error(
            f"{length:,} tokens, more than spec.training.maxLength {self._tokens:,}{rest}; set maxLength to "
            f"{self._longest}, or spec.training.truncate to true, or shorten the row"
        )

    def _within_limit(self, conversation: Conversation, row: TokenRow) -> TokenRow:
        if row.length > self._tokens:
            self.truncated += 1
            row = row.truncated(self._tokens)
        if not self._objective.learned_tokens(row):
            cure = f"; its answer begins after token {self._tokens:,}, raise spec.training.maxLength"
            raise conversation.error(f"there is no token to learn{cure if self._truncate else ''}")
        return row
