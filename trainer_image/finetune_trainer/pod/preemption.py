"""SIGTERM: finish the step on all ranks, save, and exit with 85 once the save is verified.

What a request means depends on what the start is doing: before training nothing is lost, so it ends at once; during
training the ranks agree at the end of a step; what only has to be written or published may be finished within
`ENV_FINISH_SECONDS`, and not while the storage is away. Whether a stop is an 85 or a loss is for the start to say.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from finetune_contract.progress import Activity
from finetune_trainer.artifacts.saving import on_all_ranks
from finetune_trainer.errors import StoppedAfterSave, StoppedWithoutSave, Superseded, TrainerError
from finetune_trainer.rank.collectives import Ranks

ENV_FINISH_SECONDS = "FINETUNE_FINISH_SECONDS"
"""What a start that was asked to stop may still spend on writing and publishing its result."""
_ENDS_AT_ONCE: frozenset[Activity] = frozenset({"starting", "downloading", "loading", "evaluating"})
_FINISHES: frozenset[Activity] = frozenset({"saving", "publishing"})


class StopRequest:
    """Whether this process was asked to stop. The only owner of its SIGTERM handler."""

    def __init__(self) -> None:
        self.requested = False
        self._activity: Activity = "starting"
        self._waits = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def enter(self, activity: Activity) -> None:
        """Says what the start does from now on; ends it here if it was asked to stop in the meantime."""
        self._activity = activity
        self._follow()

    def wait_for_storage(self, waits: bool) -> None:
        """Nobody knows when the storage comes back: a start that is asked to stop does not wait for it."""
        self._waits = waits
        self._follow()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return  # a second request changes nothing
        self.requested = True
        self._follow()

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._activity in _FINISHES:
            self._end()

    def _follow(self) -> None:
        if not self.requested:
            return
        if self._activity in _ENDS_AT_ONCE or (self._waits and self._activity in _FINISHES):
            self._end()
        if self._activity in _FINISHES and not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, float(os.environ.get(ENV_FINISH_SECONDS, "60")))

    def _end(self) -> None:
        raise StoppedAfterSave(f"stopped on request while {self._activity}; no step was lost")


class PreemptCallback(TrainerCallback):  # type: ignore[misc]
    """Stops training on request. Comes after the callback that uploads checkpoints.

    Args:
        wait_for_upload: raises when the checkpoint does not arrive; None on a rank that uploads nothing.
    """

    def __init__(self, stop: StopRequest, ranks: Ranks, wait_for_upload: Callable[[], None] | None) -> None:
        self._stop, self._ranks, self._wait = stop, ranks, wait_for_upload
        self._stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._stopping = self._ranks.any_rank(self._stop.requested)
        if self._stopping:
            control.should_save = True
            print(f"asked to stop: saving at step {state.global_step}", flush=True)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._stopping:
            return
        place = f"stopped on request at step {state.global_step} of {state.max_steps}"
        try:
            on_all_ranks(self._ranks, self._wait)  # no rank exits before the checkpoint is verified
        except Superseded:
            raise
        except TrainerError as error:
            raise StoppedWithoutSave(f"{place}; its checkpoint could not be stored: {error}") from error
        raise StoppedAfterSave(f"{place}; it is saved")
