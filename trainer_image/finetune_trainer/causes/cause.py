"""One cause of an end, and how a library's exception is recognised as it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune_contract.exitcodes import ExitCode


@dataclass(frozen=True)
class Cause:
    reason: str
    """What the termination record says, for machines."""
    code: ExitCode
    what: str
    """What happened, for people: the beginning of the message."""
    part: str
    """The field of the job that it is about, or the part of pod, node or cluster."""
    cure: str
    kinds: frozenset[str] = frozenset()
    """Names of exception classes: this code must not import the libraries that define them."""
    texts: str = ""
    """Regular expression for the text of an exception."""
    errnos: frozenset[int] = frozenset()
    size: Callable[[], str] | None = None
    """How large the resource is that was used up."""
    follows: bool = False
    """What a rank reports when another one is gone: the other's end is the cause."""
    in_own_words: bool = False
    """The message is the library's alone: the operator adds the cure."""

    def line_of(self, error: BaseException) -> str | None:
        """The line of the error that says it; None when it is another cause's."""
        lines = str(error).splitlines() or [type(error).__name__]
        said = next((line for line in lines if self.texts and re.search(self.texts, line)), None)
        if said is not None:
            return said.strip()
        names = {kind.__name__ for kind in type(error).__mro__}
        is_ours = bool(names & self.kinds) or (isinstance(error, OSError) and error.errno in self.errnos)
        return lines[0].strip() if is_ours else None

    def message(self, said: str) -> str:
        """Args:
        said: the line of the error.
        """
        if self.in_own_words:
            return said
        size = f" ({self.size()})" if self.size else ""
        return f"{self.what}{size}: {said.rstrip('.')}. {self.cure}"
