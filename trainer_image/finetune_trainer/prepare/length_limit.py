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
        self.first_too_long: tuple[Conversation, int] | None = None
        self.longest = 0
        self.too_long = 0
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
            self.first_too_long = self.first_too_long or (conversation, longest)
            self.longest = max(self.longest, longest)
            self.too_long += 1
        cut = [self._within_limit(row) for row in rows]
        left = [row for row in cut if self._objective.learned_tokens(row)]
        if not left:
            cure = f"; its answer begins after token {self._tokens:,}, raise spec.training.maxLength"
            raise conversation.error(f"there is no token to learn{cure if longest > self._tokens else ''}")
        self.dropped += len(cut) - len(left)
        return left

    def merge(self, later: "LengthLimit") -> None:
        """Adds what was found in rows that come after these."""
        self.first_too_long = self.first_too_long or later.first_too_long
        self.longest = max(self.longest, later.longest)
        self.too_long += later.too_long
        self.truncated += later.truncated
        self.dropped += later.dropped

    def check(self) -> None:
        """Raises DataError when rows were too long."""
        if self.first_too_long is None:
            return
        conversation, length = self.first_too_long
        rest = f" ({self.too_long:,} rows are too long, the longest has {self.longest:,})" if self.too_long > 1 else ""
        raise conversation.error(
            f"{length:,} tokens, more than spec.training.maxLength {self._tokens:,}{rest}; set maxLength to "
            f"{self.longest}, or spec.training.truncate to true, or shorten the row"
        )

    def _within_limit(self, row: TokenRow) -> TokenRow:
        if row.length <= self._tokens:
            return row
        self.truncated += 1
        return row.truncated(self._tokens)
