"""Cross entropy on labelled positions only.

The head of a language model is as wide as its vocabulary: logits of a prompt that is not learned are most of the memory
and a good part of the time of a step, for nothing. A hook in front of the head lets the labelled positions through
alone, and of their logits no second copy is made as a whole.
"""

from collections.abc import Iterator
from typing import Any

import torch

IGNORED = -100
"""Label of a position that is not learned, as everywhere in transformers."""

_CHUNK_BYTES = {"cpu": 2**20, "cuda": 256 * 2**20}
"""Logits that are in fp32 at a time: what the caches of a CPU core hold; on a GPU enough to keep it busy."""


class LabelledLoss:
    """Sum of the cross entropies of one model's labelled positions.

    Works through whatever is wrapped around the model (peft, DDP, DeepSpeed), as it changes what the head receives and
    not who calls it; soft caps and scales that a model applies to its logits stay in place.
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
    """Rows, and room for them in fp32: the same room each time, as fresh memory costs a CPU more than what is done with
    it."""
    count = max(1, _CHUNK_BYTES.get(logits.device.type, _CHUNK_BYTES["cuda"]) // (4 * logits.shape[1]))
    room = torch.empty(min(count, len(logits)), logits.shape[1], dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), count):
        rows = slice(start, min(start + count, len(logits)))
        yield rows, room[: rows.stop - rows.start]
