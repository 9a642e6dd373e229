"""How much longer the rows are than the conversations they come from, and how much longer they may be."""

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.objective import Rendered
from finetune_trainer.rank.reporting import Report

_LIMIT = 4
"""Times the tokens of the conversations, each rendered once."""


class Expansion:
    """A chat template that rewrites what was said before needs a row for each answer, each with all that precedes it:
    the tokens grow with the square of the turns."""

    def __init__(self) -> None:
        self.conversations = 0
        self.expanded = 0
        """Conversations of more than one row."""
        self.tokens_once = 0
        """Of the conversations, each rendered once."""
        self.tokens = 0
        """Of the rows, before truncation."""

    def add(self, rendered: Rendered) -> None:
        self.conversations += 1
        self.expanded += len(rendered.rows) > 1
        self.tokens_once += rendered.tokens_once
        self.tokens += sum(row.length for row in rendered.rows)

    def merge(self, other: "Expansion") -> None:
        self.conversations += other.conversations
        self.expanded += other.expanded
        self.tokens_once += other.tokens_once
        self.tokens += other.tokens

    def check(self) -> None:
        """Raises ConfigurationError when the rows are too much longer."""
        if self.tokens <= _LIMIT * self.tokens_once:
            return
        message = (
            f"the chat template rewrites earlier turns, so each answer needs a row of its own: {self.tokens:,} tokens "
            f"instead of {self.tokens_once:,}, more than {_LIMIT} times as many. Set spec.dataset.maskHistory to learn "
            "the last answer of each conversation only, or spec.dataset.template to a template that keeps earlier turns"
        )
        raise ConfigurationError(message, field="spec.dataset.maskHistory", reason="TooManyTokens")

    def report(self, report: Report) -> None:
        if self.expanded:
            report(
                f"the chat template rewrites earlier turns: {self.expanded:,} of {self.conversations:,} conversations "
                f"became one row for each answer, {self.tokens_once:,} tokens became {self.tokens:,}"
            )
