"""How long an outage lasts: time in which nothing moved, not time that a transfer takes."""

import time

import tenacity

from finetune_trainer.artifacts.transfer_meter import TransferMeter

_MOST_TRIES = 20
"""Of one transfer that moves bytes each time and fails each time."""


class Silence:
    """Since the last byte, or since the beginning for what moves none.

    Args:
        meter: of the transfer; None for a single request.
    """

    def __init__(self, budget_seconds: float, meter: TransferMeter | None) -> None:
        self._budget, self._meter, self._since = budget_seconds, meter, time.monotonic()

    def is_too_long(self, state: tenacity.RetryCallState) -> bool:
        """With the pause before the next try."""
        moved_at = self._meter.moved_at if self._meter else None
        silent = time.monotonic() - max(self._since, moved_at or 0.0)
        in_vain = moved_at is not None and state.attempt_number >= _MOST_TRIES
        return in_vain or silent + state.upcoming_sleep >= self._budget
