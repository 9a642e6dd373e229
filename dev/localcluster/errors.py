"""What ends a command of ours that a person can cure (printed without a traceback, exit code 1), or skips a test."""

from __future__ import annotations


class CurableError(RuntimeError):
    """Something that only the person at the terminal can fix.

    Attributes:
        what: what happened and why, in one or two sentences.
        cure: what to do about it: a command to type or a setting to change.
    """

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what, cure)
        self.what = what
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.what}\n{self.cure}"


class UnsupportedError(RuntimeError):
    """This kind of cluster cannot do that: a test that needs it is skipped."""
