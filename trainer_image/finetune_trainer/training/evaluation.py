"""Scores held-out rows: token-weighted loss, and answers to a few questions.

Leaves no trace in the training: no random number is drawn, no layer stays in eval mode, nothing is compiled for it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.objectives.sft.loss import IGNORED, LabelledLoss
from finetune_trainer.objectives.sft.rows import TokenRow
from finetune_trainer.prepare.store import Question
from finetune_trainer.rank.device import Process
from finetune_trainer.training import answers
from finetune_trainer.training.batches import FILLER, Collator, RowSet


@dataclass(frozen=True)
class Score:
    loss: float
    """Mean cross entropy of the held-out answers, in nats a token."""
    answers: tuple[str, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Evaluator:
    """Scores one model as often as it is asked.

    Args:
        rows: held-out rows.
        questions: those to be answered.
        batch_size: rows at once on one process.
        end_of_turn: token that ends an answer.
        answers_on_all_ranks: ZeRO-3 needs every rank in every forward pass; else only the first answers.
    """

    rows: Sequence[TokenRow]
    questions: Sequence[Question]
    loss: LabelledLoss
    tokenizer: Any
    process: Process
    device: Any
    batch_size: int
    max_new_tokens: int
    end_of_turn: int
    answers_on_all_ranks: bool = False

    def score(self, model: Any) -> Score:
        """Args:
        model: as it is trained, wrapper included.
        """
        with _undisturbed(model):
            return Score(self._mean_loss(model), self._answers(model))

    def _mean_loss(self, model: Any) -> float:
        collate, rows = Collator(pad=self.tokenizer.pad_token_id), RowSet(self.rows)
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for indices in self._batches():
            batch = {name: tensor.to(self.device) for name, tensor in collate([rows[i] for i in indices]).items()}
            total[0] += self.loss(model, batch).double()
            total[1] += (batch["labels"] != IGNORED).sum()
        if self.process.world_size > 1:
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])

    def _batches(self) -> Iterator[list[int]]:
        """This rank's batches; equally many on every rank. Rows of like length go together."""
        order = sorted(range(len(self.rows)), key=lambda index: self.rows[index].length)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        rounds = -(-len(batches) // self.process.world_size)
        for index in range(rounds):
            position = index * self.process.world_size + self.process.rank
            yield batches[position] if position < len(batches) else [FILLER]

    def _answers(self, model: Any) -> tuple[str, ...]:
        if not self.questions or not (self.process.is_first or self.answers_on_all_ranks):
            return ()
        return answers.greedy(
            _unwrapped(model),
            self.tokenizer,
            [question.prompt for question in self.questions],
            end_of_turn=self.end_of_turn,
            max_new_tokens=self.max_new_tokens,
            synced_gpus=self.answers_on_all_ranks and self.process.world_size > 1,
        )


def _unwrapped(model: Any) -> Any:
    """The model inside DDP or DeepSpeed's engine."""
    return (
        model.module if hasattr(model, "module") and not hasattr(model, "generate") else getattr(model, "module", model)
    )


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    was_training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
