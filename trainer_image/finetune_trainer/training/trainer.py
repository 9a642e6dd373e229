"""transformers' Trainer with the loss of an objective and our batches. Loop, accumulation, DeepSpeed, clipping and
checkpoints stay its own."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from finetune_trainer.objectives.objective import BatchLoss
from finetune_trainer.rank.schedule import Schedule
from finetune_trainer.training.batches import BatchShape, RowSet, StepSampler
from finetune_trainer.training.health import Health, optimizer_tensors, trained_tensors


class ObjectiveTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Args beyond the Trainer's:
    loss: sums over what the objective counts.
    shape: how a global batch is divided.
    rows: the training rows.
    grouped: rows of similar length share a step.
    health: looks at each step and each save.
    """

    lr_scheduler: Any
    schedule: Schedule
    """Set before `train`: what it is depends on the checkpoint that the run resumes from."""

    def __init__(
        self,
        *args: Any,
        loss: BatchLoss,
        shape: BatchShape,
        rows: RowSet,
        grouped: bool,
        health: Health,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, train_dataset=rows, **kwargs)
        self.remove_callback(PrinterCallback)
        self._batch_loss = loss
        self._shape = shape
        self._rows = rows
        self._grouped = grouped
        self.health = health
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
        return self.health.loss(loss * self.args.world_size / num_items_in_batch)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Ours: transformers' warm-up begins with a step of rate 0."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, _as_function(self.schedule)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @property
    def rate(self) -> float:
        """Of the step under way; after a step, of the next one."""
        return self.schedule.rate(self.state.global_step)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Called once per step, when the gradients of all ranks are reduced: before the optimizer takes it, or, with
        DeepSpeed, after that."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        overflowed = self.is_deepspeed_enabled and self.accelerator.optimizer_step_was_skipped
        step = self.state.global_step + 1
        return self.health.end_step(norm, step=step, rate=self.rate, overflowed=bool(overflowed))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_tensors()
        super()._save_checkpoint(model, trial)

    def check_tensors(self) -> None:
        """Raises Diverged, on every rank, when what is trained or remembered is not finite on one of them."""
        step = self.state.global_step
        tensors = [*trained_tensors(self.model), *optimizer_tensors(self.optimizer)]
        self.health.check(tensors, step=step, rate=self.schedule.rate(max(0, step - 1)))

    def largest_gradient(self) -> float:
        """Norm, over the reported steps of the whole run; NaN when none was reported."""
        norms = [entry["grad_norm"] for entry in self.state.log_history if "grad_norm" in entry]
        return max(norms, default=float("nan"))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the Trainer would count all parameters at each step, and nobody reads the number


def _as_function(schedule: Schedule) -> Callable[[int], float]:
    """LambdaLR saves what is not a function with its fields; a resumed run has its own."""
    return lambda done: schedule.factor(done)
