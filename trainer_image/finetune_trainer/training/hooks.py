"""Where training meets its surroundings: activities, checkpoints, preemption, the pace.

`train.run` knows nothing about S3 prefixes, signals or HTTP. It calls the `Hooks` that it is given. Order of the calls,
on every rank:

    hooks.enter("loading")      the model is fetched and loaded, the adapter is added
    hooks.callbacks(output)     once; the callbacks join transformers' Trainer in this order, after ours
    hooks.resume_from()         once; a local checkpoint directory as the Trainer wrote it, or None
    hooks.enter("evaluating")   held-out rows at step 0 (not when resumed: the numbers are in the checkpoint)
    hooks.enter("training")
    hooks.enter("evaluating")   held-out rows at the end
    hooks.enter("saving")       the result is written to `TrainResult.directory`

A checkpoint is the directory `<output>/checkpoint-<step>`, complete when the Trainer calls `on_save`, which runs on
every rank after that rank wrote its own files (`rng_state_<rank>.pth`, ZeRO shards), without a barrier: a callback that
uploads the directory of the whole node waits for all its ranks first. The Trainer saves every
`spec.checkpoint.everySteps` and at the last step; a callback requests one more by `control.should_save = True`. A
callback may raise any `TrainerError` (`StoppedAfterSave`, say): it leaves `train.run` unchanged.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune_contract.progress import Activity


class Hooks(Protocol):
    """What the surroundings of a training provide."""

    def enter(self, activity: Activity) -> None: ...

    def callbacks(self, output: Path) -> Sequence[Any]:
        """TrainerCallbacks, in the order in which they are called.

        Args:
            output: where the Trainer writes `checkpoint-<step>`; local, the same path on every rank of a node.
        """

    def resume_from(self) -> Path | None: ...
