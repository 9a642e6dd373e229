"""transformers' Trainer with the loss of an objective and our batches. Loop, accumulation, DeepSpeed, clipping and
checkpoints stay its own."""

import math
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from finetune_trainer.errors import Diverged
from finetune_trainer.objectives.objective import BatchLoss
from finetune_trainer.training.batches import BatchShape, RowSet, StepSampler


class ObjectiveTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Args beyond the Trainer's:
    loss: sums over what the objective counts.
    shape: how a global batch is divided.
    rows: the training rows.
    grouped: rows of similar length share a step.
    """

    def __init__(
        self, *args: Any, loss: BatchLoss, shape: BatchShape, rows: RowSet, grouped: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, train_dataset=rows, **kwargs)
        self.remove_callback(PrinterCallback)
        self._batch_loss = loss
        self._shape = shape
        self._rows = rows
        self._grouped = grouped
        # Both tell the Trainer to count labels over accumulation and ranks, and that the loss is already divided by
        # them.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Not prepared by accelerate: the sampler knows its rank, and accelerate would distribute the batches again."""
        return torch.utils.data.DataLoader(
            self._rows,
            batch_sampler=StepSampler(
                self._rows.lengths,
                self._shape,
                rank=self.args.process_index,
                seed=self.args.seed,
                grouped=self._grouped,
            ),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer checks whether it is done only after a step: resumed from the last one, it would do one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The sum of this micro-batch over the labels of the whole step, all ranks and micro-batches together.
        Gradients are averaged over the ranks, hence the factor."""
        assert num_items_in_batch is not None
        loss = self._batch_loss(model, inputs)
        scaled: torch.Tensor = loss * self.args.world_size / num_items_in_batch
        if not math.isfinite(scaled.item()):
            cure = "lower spec.training.learningRate, or use precision bf16 or fp32"
            raise Diverged(f"the loss is {loss.item()} at step {self.state.global_step + 1}; {cure}")
        return scaled

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the Trainer would count all parameters at each step, and nobody reads the number
