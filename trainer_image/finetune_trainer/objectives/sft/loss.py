"""Cross entropy on labelled positions only, and the batches it is computed on.

The head of a language model is as wide as its vocabulary: the logits of a prompt that is not learned take most of the
memory and much of the time of a step, for nothing. A hook in front of the head lets only labelled positions through,
and their logits are never copied as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.objectives.objective import TokenRow

IGNORED = -100
"""Label of a position that is not learned, as everywhere in transformers."""

_CHUNK_BYTES = {"cpu": 2**20, "cuda": 256 * 2**20}
"""Logits that are in fp32 at a time: what the caches of a CPU core hold; on a GPU enough to keep it busy."""


@dataclass(frozen=True)
class AnswerCollator:
    """Pads to the right, to the longest row of the batch.

    Args:
        multiple: pads further to a multiple of so many tokens; 8 suits the matrix units of GPUs.
    """

    pad: int
    multiple: int = 1

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        """Tensors [rows, tokens]: input_ids, attention_mask (1 on tokens, 0 on padding), labels shifted to the position
        that predicts them; `shift_labels` is the same tensor under the name by which the Trainer counts them."""
        width = -(-max(row.length for row in rows) // self.multiple) * self.multiple
        ids = torch.full((len(rows), width), self.pad, dtype=torch.long)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
        for index, row in enumerate(rows):
            tokens = torch.from_numpy(row.ids.astype(np.int64))
            ids[index, : row.length] = tokens
            attention[index, : row.length] = 1
            following = torch.where(torch.from_numpy(row.supervised[1:].copy()), tokens[1:], IGNORED)
            labels[index, : row.length - 1] = following
        return {"input_ids": ids, "attention_mask": attention, "labels": labels, "shift_labels": labels}


def count_labels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (batch["labels"] != IGNORED).sum()


class LabelledLoss:
    """Sum of the cross entropies of one model's labelled positions.

    Works through whatever wraps the model (peft, DDP, DeepSpeed), since it changes what the head receives and not who
    calls it; soft caps and scales that a model applies to its logits stay in place.
    """

    def __init__(self, model: Any) -> None:
        self._positions: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def __call__(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Args:
            model: the model itself, or its wrapper.
            batch: input_ids, attention_mask, labels, each [rows, tokens]. Labels are shifted already: `labels[:, t]` is
                the token that follows position t, or IGNORED.

        Returns:
            Scalar, fp32; 0 with a gradient of 0 when nothing is labelled.
        """
        labels = batch["labels"]
        self._positions = labels != IGNORED
        try:
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        finally:
            positions, self._positions = self._positions, None
        logits = output.logits
        if logits.dim() == 3:  # a model that does not call its head as a module
            logits = logits[positions]
        loss: torch.Tensor = _CrossEntropySum.apply(logits, labels[positions])  # type: ignore[no-untyped-call]
        return loss

    def _select(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._positions is None:
            return None
        return (inputs[0][self._positions], *inputs[1:])


class _CrossEntropySum(torch.autograd.Function):
    """Sum of cross entropies, in fp32 by chunks of rows.

    `functional.cross_entropy` on bf16 logits keeps a copy in fp32, its log-softmax, the gradient of both and a cast
    back: 16 bytes a logit in five passes over memory. Here it is the logits and their gradient, in their own precision.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: [n, vocabulary]; labels: [n], each a token of the vocabulary. Returns a scalar, fp32."""
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for rows, chunk in _chunks(logits):
            torch.log_softmax(logits[rows], dim=-1, dtype=torch.float32, out=chunk)
            total -= chunk.gather(1, labels[rows, None]).sum()
        ctx.save_for_backward(logits, labels)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of a row is its softmax, less 1 at the label."""
        logits, labels = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows, chunk in _chunks(logits):
            torch.softmax(logits[rows], dim=-1, dtype=torch.float32, out=chunk)
            chunk.scatter_add_(1, labels[rows, None], chunk.new_full((len(chunk), 1), -1.0))
            result[rows] = chunk.mul_(gradients[0])
        return result, None


def _chunks(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows, and a buffer for them in fp32: the same one each time, since allocating costs a CPU more than computing."""
    count = max(1, _CHUNK_BYTES.get(logits.device.type, _CHUNK_BYTES["cuda"]) // (4 * logits.shape[1]))
    buffer = torch.empty(min(count, len(logits)), logits.shape[1], dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), count):
        rows = slice(start, min(start + count, len(logits)))
        yield rows, buffer[: rows.stop - rows.start]
