"""Hooks of a training that has no surroundings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_contract.progress import Activity


class NoHooks:
    """Records the activities, and nothing else.

    Args:
        resume: local checkpoint directory to start from.
        callbacks: passed to the Trainer as they are.
    """

    def __init__(self, resume: Path | None = None, callbacks: Sequence[Any] = ()) -> None:
        self._resume = resume
        self._callbacks = callbacks
        self.activities: list[Activity] = []

    def enter(self, activity: Activity) -> None:
        self.activities.append(activity)

    def callbacks(self, output: Path) -> Sequence[Any]:
        return self._callbacks

    def resume_from(self) -> Path | None:
        return self._resume
