"""transformers' Trainer with our loss, our batches and our log lines. Loop, accumulation, DeepSpeed, clipping and
checkpoints stay its own."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from finetune_trainer.errors import Diverged
from finetune_trainer.objectives.sft.loss import LabelledLoss
from finetune_trainer.training.batches import Collator, Cut, RowSet, StepSampler
from finetune_trainer.training.hooks import Report


class SftTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Args beyond the Trainer's:
    loss: sums over the labelled positions.
    cut: how a global batch is dealt out.
    rows: the training rows.
    grouped: rows of like length share a step.
    """

    def __init__(
        self, *args: Any, loss: LabelledLoss, cut: Cut, rows: RowSet, lengths: list[int], grouped: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, train_dataset=rows, **kwargs)
        self.remove_callback(PrinterCallback)
        self._labelled_loss = loss
        self._cut = cut
        self._lengths = lengths
        self._grouped = grouped
        # Both tell the Trainer to count labels over accumulation and ranks, and that the loss is divided by them
        # already.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Not prepared by accelerate: the sampler knows its rank, and accelerate would deal the batches out again."""
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=StepSampler(
                self._lengths,
                self._cut,
                rank=self.args.process_index,
                seed=self.args.seed,
                grouped=self._grouped,
            ),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer asks whether it is done after a step only: resumed from the last one it would do one too many."""
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
        """Sum of this micro-batch over the labels of the whole step, all ranks and micro-batches together. Gradients
        are averaged over the ranks, hence the factor."""
        assert num_items_in_batch is not None
        loss = self._labelled_loss(model, inputs)
        scaled: torch.Tensor = loss * self.args.world_size / num_items_in_batch
        if not math.isfinite(scaled.item()):
            cure = "lower spec.training.learningRate, or use precision bf16 or fp32"
            raise Diverged(f"the loss is {loss.item()} at step {self.state.global_step + 1}; {cure}")
        return scaled

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counted anew from all parameters at each step, and read by nobody


def collator(pad: int, *, on_gpu: bool) -> Collator:
    return Collator(pad, multiple=8 if on_gpu else 1)


class LogLines(TrainerCallback):  # type: ignore[misc]
    """One line for people each `loggingSteps`."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self._report(
                f"step {state.global_step}/{state.max_steps}  epoch {state.epoch:.2f}  loss {logs['loss']:.4f}  "
                f"gradient norm {logs.get('grad_norm', 0.0):.3f}  learning rate {logs.get('learning_rate', 0.0):.2e}"
            )


class Beside(TrainerCallback):  # type: ignore[misc]
    """Keeps a small JSON file in each checkpoint: what a resumed run cannot compute again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.value: dict[str, Any] | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save and self.value is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / self._name).write_text(json.dumps(self.value))

    def restore(self, checkpoint: Path) -> None:
        file = checkpoint / self._name
        self.value = json.loads(file.read_text()) if file.is_file() else None


class AtStart(TrainerCallback):  # type: ignore[misc]
    """Calls once when the training is set up (model wrapped, checkpoint loaded) and has not begun."""

    def __init__(self, action: Any) -> None:
        self._action = action

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._action()
