"""SIGTERM: finish the step on all ranks, save, and exit with 85 once the save is verified.

What a request means depends on what the start is doing: before training nothing is lost, so it ends at once; during
training the ranks agree at the end of a step; what only has to be written or published is finished.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from finetune_contract.progress import Activity
from finetune_trainer.errors import StoppedAfterSave
from finetune_trainer.rank.collectives import Ranks

_ENDS_AT_ONCE: frozenset[Activity] = frozenset({"starting", "downloading", "loading", "evaluating"})


class StopRequest:
    """Whether this process was asked to stop. The only owner of its SIGTERM handler."""

    def __init__(self) -> None:
        self.requested = False
        self._activity: Activity = "starting"

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def enter(self, activity: Activity) -> None:
        """Says what the start does from now on; ends it here if it was asked to stop in the meantime."""
        self._activity = activity
        self._end_if_nothing_is_lost()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return  # a second request changes nothing
        self.requested = True
        self._end_if_nothing_is_lost()

    def _end_if_nothing_is_lost(self) -> None:
        if self.requested and self._activity in _ENDS_AT_ONCE:
            raise StoppedAfterSave(f"stopped on request while {self._activity}; no step was lost")


class PreemptCallback(TrainerCallback):  # type: ignore[misc]
    """Stops training on request. Comes after the callback that uploads checkpoints."""

    def __init__(self, stop: StopRequest, ranks: Ranks, wait_for_upload: Callable[[], None]) -> None:
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
        self._wait()
        self._ranks.barrier()  # no rank exits before the checkpoint is verified: its 85 would be false
        raise StoppedAfterSave(f"stopped on request at step {state.global_step} of {state.max_steps}; it is saved")
