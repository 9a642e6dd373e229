"""Between the Trainer's saves and the uploads: hands checkpoints over, and pauses when too much is unsaved."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune_trainer.artifacts.uploads import Uploads
from finetune_trainer.errors import TrainerError, Transient
from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.collectives import Ranks


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Hands each checkpoint of the Trainer to the uploads. Comes before the callback that stops the training.

    Args:
        uploads: on the first rank of each node.
        on_saved: called with the seconds that a save paused the training.
    """

    def __init__(
        self, output_dir: Path, uploads: Uploads | None, ranks: Ranks, on_saved: Callable[[float], None]
    ) -> None:
        self._output_dir, self._uploads, self._ranks, self._on_saved = output_dir, uploads, ranks, on_saved
        self._step_ended = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_ended = time.monotonic()
        if self._uploads:
            self._uploads.done_step = state.global_step
            self._uploads.raise_failure()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ranks.barrier()  # by now the other ranks of this node have written their files
        if self._uploads:
            self._uploads.begin(self._output_dir / f"checkpoint-{state.global_step}", state.global_step)
        self._on_saved(time.monotonic() - self._step_ended)
        if self._ranks.any_rank(self._uploads is not None and self._uploads.is_overdue):
            self._pause()
        heartbeat.enter("training")

    def _pause(self) -> None:
        """Until everything is stored: what is trained now might be lost as well."""
        heartbeat.enter("waiting for the storage")
        on_all_ranks(self._ranks, self._uploads.wait if self._uploads else None)


def on_all_ranks(ranks: Ranks, wait: Callable[[], None] | None) -> None:
    """Waits on the ranks that upload; returns on all of them, or raises on all.

    Raises:
        TrainerError: what `wait` raised; on the ranks that do not upload, that another's did.
    """
    failure: TrainerError | None = None
    try:
        if wait is not None:
            wait()
    except TrainerError as error:
        failure = error
    failed = ranks.any_rank(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise Transient("another rank could not store the checkpoint", reason="CheckpointNotStored")
