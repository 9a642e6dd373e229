"""Rows into batches: the same rows in each optimizer step however it is cut into processes and accumulation.

An optimizer step takes a *global batch* of world × accumulation × per-device rows. Which rows these are depends on seed
and epoch alone; only then is a global batch cut into micro-batches and dealt out to the ranks. So a job that goes on
with half the processes and twice the accumulation sees the same steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.objectives.sft.loss import IGNORED
from finetune_trainer.objectives.sft.rows import TokenRow

FILLER = -1
"""Index of a row without labels: it keeps a rank busy that has no row left in the last step of an epoch."""

_STEPS_SORTED_TOGETHER = 64
"""Rows are sorted by length within so many steps: enough for little padding, and the order stays random beyond."""


@dataclass(frozen=True)
class Cut:
    """How a global batch is cut."""

    per_device: int
    accumulation: int
    world: int = 1

    @property
    def global_batch(self) -> int:
        return self.per_device * self.accumulation * self.world


def global_batches(lengths: Sequence[int], size: int, *, seed: int, epoch: int, grouped: bool) -> list[list[int]]:
    """Row indices of each optimizer step of one epoch; each row once, the last step may have fewer.

    With `grouped`, rows of like length share a step, and the first step of the first epoch has the longest row: what
    runs out of memory does so at step 1 and not at hour N.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    if not grouped:
        return _chunks(order.tolist(), size)
    together = size * _STEPS_SORTED_TOGETHER
    steps: list[list[int]] = []
    partial: list[list[int]] = []
    for start in range(0, len(order), together):
        rows = sorted(order[start : start + together].tolist(), key=lambda row: -lengths[row])
        for chunk in _chunks(rows, size):
            (steps if len(chunk) == size else partial).append(chunk)
    shuffled = [steps[i] for i in np.random.default_rng([seed, epoch, 1]).permutation(len(steps))]
    if epoch == 0 and shuffled:
        longest = max(range(len(shuffled)), key=lambda step: max(lengths[row] for row in shuffled[step]))
        shuffled[0], shuffled[longest] = shuffled[longest], shuffled[0]
    return shuffled + partial


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def micro_batches(rows: list[int], cut: Cut, rank: int) -> list[list[int]]:
    """One rank's share of a global batch. Every rank gets equally many, so that none waits for another in vain."""
    count = -(-len(rows) // (cut.per_device * cut.world)) * cut.world
    parts = [part.tolist() for part in np.array_split(np.asarray(rows, dtype=np.int64), count)]
    return [part or [FILLER] for part in parts[rank :: cut.world]]


class StepSampler:
    """Batch sampler for torch's DataLoader: this rank's micro-batches of an epoch. Deterministic by seed and epoch, so
    that a resumed run finds its place by counting."""

    def __init__(self, lengths: Sequence[int], cut: Cut, *, rank: int, seed: int, grouped: bool) -> None:
        self._lengths = lengths
        self._cut = cut
        self._rank = rank
        self._seed = seed
        self._grouped = grouped
        self._epoch = 0

    @property
    def batch_sampler(self) -> "StepSampler":
        """The Trainer looks for `set_epoch` one level below the loader's batch sampler, where accelerate would have put
        its own; ours needs no wrapper."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        steps = global_batches(
            self._lengths, self._cut.global_batch, seed=self._seed, epoch=self._epoch, grouped=self._grouped
        )
        for rows in steps:
            yield from micro_batches(rows, self._cut, self._rank)

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._cut.global_batch)
        return full * self._cut.accumulation + -(-rest // (self._cut.per_device * self._cut.world))


class RowSet(torch.utils.data.Dataset[TokenRow]):
    """Token rows by index; FILLER is one token that nothing is learned from."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self._rows = rows
        first = rows[0]
        self._filler = TokenRow(first.ids[:1], np.zeros(1, np.bool_))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self._filler if index == FILLER else self._rows[index]


@dataclass(frozen=True)
class Collator:
    """Pads to the right, to the longest row of the batch.

    Args:
        multiple: pads further to a multiple of so many tokens; 8 suits the matrix units of GPUs.
    """

    pad: int
    multiple: int = 1

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
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
