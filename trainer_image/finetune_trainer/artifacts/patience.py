"""How long a run goes on without being able to store its work, and what it says of it meanwhile."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from finetune_trainer.errors import Superseded, TrainerError
from finetune_trainer.rank import heartbeat

ENV_UNSAVED_SECONDS = "FINETUNE_UNSAVED_SECONDS"
"""How old the newest verified checkpoint may be while uploads fail: 3 save intervals when that is longer. Then training
pauses."""
ENV_PAUSE_SECONDS = "FINETUNE_PAUSE_SECONDS"
"""How long training and publishing wait for the storage to come back."""
_INTERVALS = 3
_LONGEST_PAUSE = 60.0

Waiting = Callable[[str | None], None]
"""Told what the run waits for, in a sentence for its author; None when it goes on."""
Result = TypeVar("Result")


def _seconds(name: str, otherwise: float) -> Callable[[], float]:
    return lambda: float(os.environ.get(name, otherwise))


@dataclass(frozen=True)
class Patience:
    """Limits, in seconds."""

    unsaved: float = field(default_factory=_seconds(ENV_UNSAVED_SECONDS, 1800))
    pause: float = field(default_factory=_seconds(ENV_PAUSE_SECONDS, 7200))

    def for_unsaved(self, save_interval: float) -> float:
        return max(self.unsaved, _INTERVALS * save_interval)

    def before_try(self, failures: int) -> float:
        """Pause after so many failures in a row. Each of them has used up the storage's own retries."""
        return float(min(5.0 * 2 ** (failures - 1), _LONGEST_PAUSE, max(0.05, self.pause / 10)))


def until_stored(action: Callable[[], Result], what: str, patience: Patience, waiting: Waiting) -> Result:
    """Tries again while the storage refuses, as long as `patience.pause`; returns what `action` does.

    Args:
        what: the subject of the sentence that says why it waits: "The result".

    Raises:
        Superseded: at once.
        TrainerError: the last, when the time is used up.
    """
    since, failures = time.monotonic(), 0
    while True:
        try:
            result = action()
        except Superseded:
            raise
        except TrainerError as error:
            failures += 1
            if time.monotonic() - since >= patience.pause:
                raise
            if failures == 1:
                waiting(f"{what} cannot be stored: {error}")
            _sleep(patience.before_try(failures))
        else:
            if failures:
                waiting(None)
            return result


def _sleep(seconds: float) -> None:
    """A deliberate wait is no hang."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        heartbeat.beat()
        time.sleep(min(left, 1.0))
