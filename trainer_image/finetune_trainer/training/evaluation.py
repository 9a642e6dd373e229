"""Scores held-out rows: token-weighted loss, and answers to a few questions.

Does not affect the training: no random number is drawn, no layer stays in eval mode, nothing is compiled for it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_contract.termination import EvaluationResult, SampleAnswer
from finetune_trainer.objectives.objective import BatchLoss, Objective
from finetune_trainer.prepare.store import Question
from finetune_trainer.prepare.token_files import StoredRows
from finetune_trainer.rank import heartbeat
from finetune_trainer.rank.device import Process
from finetune_trainer.training import answers
from finetune_trainer.training.batches import FILLER, RowSet


@dataclass(frozen=True)
class Score:
    loss: float
    """Mean cross entropy of the held-out answers, in nats per token."""
    answers: tuple[str, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def compare(questions: Sequence[Question], rows: int, before: Score, after: Score) -> EvaluationResult:
    """What training changed. Only ranks that answered have samples."""
    answered = zip(questions, before.answers, after.answers, strict=True) if after.answers else ()
    samples = tuple(
        SampleAnswer(question=asked.question, expected=asked.expected, before=first, after=last)
        for asked, first, last in answered
    )
    return EvaluationResult(rows=rows, loss_before=before.loss, loss_after=after.loss, samples=samples)


@dataclass(frozen=True)
class Evaluator:
    """Scores one model as often as it is asked to.

    Args:
        rows: held-out rows.
        questions: those to answer.
        loss: of the model to score.
        batch_size: rows per process and forward pass.
        answers_on_all_ranks: ZeRO-3 needs every rank in every forward pass; otherwise only rank 0 answers.
    """

    rows: StoredRows
    questions: Sequence[Question]
    objective: Objective
    loss: BatchLoss
    tokenizer: Any
    process: Process
    device: Any
    batch_size: int
    max_new_tokens: int
    answers_on_all_ranks: bool = False

    def score(self, model: Any) -> Score:
        """Args:
        model: as it is trained, wrapper included.
        """
        with _undisturbed(model):
            return Score(self._mean_loss(model), self._answers(model))

    def _mean_loss(self, model: Any) -> float:
        collate, rows = self.objective.collator(self.tokenizer.pad_token_id, multiple=1), RowSet(self.rows)
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for indices in self._batches():
            batch = {name: tensor.to(self.device) for name, tensor in collate([rows[i] for i in indices]).items()}
            total[0] += self.loss(model, batch).double()
            total[1] += self.objective.count(batch)
            heartbeat.beat()
        if self.process.world_size > 1:
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])

    def _batches(self) -> Iterator[list[int]]:
        """This rank's batches; the same number on every rank. Rows of similar length share a batch."""
        order = np.argsort(self.rows.lengths, kind="stable").tolist()
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        rounds = -(-len(batches) // self.process.world_size)
        for index in range(rounds):
            position = index * self.process.world_size + self.process.rank
            yield batches[position] if position < len(batches) else [FILLER]

    def _answers(self, model: Any) -> tuple[str, ...]:
        if not self.questions or not (self.process.is_first or self.answers_on_all_ranks):
            return ()
        return answers.greedy(
            getattr(model, "module", model),  # inside DDP or DeepSpeed's engine
            self.tokenizer,
            [question.prompt for question in self.questions],
            max_new_tokens=self.max_new_tokens,
            synced_gpus=self.answers_on_all_ranks and self.process.world_size > 1,
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
