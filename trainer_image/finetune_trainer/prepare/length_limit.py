"""Truncates or rejects rows that are longer than `spec.training.maxLength`."""

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
        self.dropped = 0

    def apply(self, conversation: Conversation, rows: list[TokenRow]) -> list[TokenRow]:
        """The rows of one conversation, truncated where necessary.

        A row that truncation leaves nothing to learn from is dropped, as a later answer of a longer row would be.

        Raises:
            DataError: nothing of the conversation is left to learn from.
        """
        longest = max(row.length for row in rows)
        if longest > self._tokens and not self._truncate:
            self._first = self._first or (conversation, longest)
            self._longest = max(self._longest, longest)
            self._count += 1
        cut = [self._within_limit(row) for row in rows]
        left = [row for row in cut if self._objective.learned_tokens(row)]
        if not left:
            cure = f"; its answer begins after token {self._tokens:,}, raise spec.training.maxLength"
            raise conversation.error(f"there is no token to learn{cure if longest > self._tokens else ''}")
        self.dropped += len(cut) - len(left)
        return left

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

    def _within_limit(self, row: TokenRow) -> TokenRow:
        if row.length <= self._tokens:
            return row
        self.truncated += 1
        return row.truncated(self._tokens)
