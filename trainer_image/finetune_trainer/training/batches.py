"""Rows into batches: the same rows in each optimizer step, however it is divided among processes and accumulation.

An optimizer step takes a *global batch* of world × accumulation × per-device rows. Which rows these are depends only on
seed and epoch; only then is a global batch divided into micro-batches and distributed to the ranks. So a job that
resumes with half the processes and twice the accumulation sees the same steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune_trainer.objectives.objective import TokenRow
from finetune_trainer.prepare.token_files import StoredRows

FILLER = -1
"""Index of a row without labels: for a rank that has no row left in the last step of an epoch."""

_STEPS_SORTED_TOGETHER = 64
"""Rows are sorted by length within this many steps: enough to need little padding; beyond that the order is random."""


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is divided."""

    per_device: int
    accumulation: int
    world: int = 1

    @property
    def global_batch(self) -> int:
        return self.per_device * self.accumulation * self.world


def global_batches(lengths: Sequence[int], size: int, *, seed: int, epoch: int, grouped: bool) -> list[list[int]]:
    """Row indices of each optimizer step of one epoch; each row once, the last step may have fewer.

    With `grouped`, rows of similar length share a step, and the first step of the first epoch has the longest row: a
    job that runs out of memory does so at step 1, not at hour N.
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


def micro_batches(rows: list[int], shape: BatchShape, rank: int) -> list[list[int]]:
    """One rank's share of a global batch. Every rank gets equally many, so that no rank waits for another forever."""
    count = -(-len(rows) // (shape.per_device * shape.world)) * shape.world
    parts = [part.tolist() for part in np.array_split(np.asarray(rows, dtype=np.int64), count)]
    return [part or [FILLER] for part in parts[rank :: shape.world]]


class StepSampler:
    """Batch sampler for torch's DataLoader: this rank's micro-batches of an epoch. Deterministic by seed and epoch, so
    that a resumed run finds its place by counting."""

    def __init__(self, lengths: Sequence[int], shape: BatchShape, *, rank: int, seed: int, grouped: bool) -> None:
        self._lengths = lengths
        self._shape = shape
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
            self._lengths, self._shape.global_batch, seed=self._seed, epoch=self._epoch, grouped=self._grouped
        )
        for rows in steps:
            yield from micro_batches(rows, self._shape, self._rank)

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._shape.global_batch)
        return full * self._shape.accumulation + -(-rest // (self._shape.per_device * self._shape.world))


class RowSet(torch.utils.data.Dataset[TokenRow]):
    """Token rows by index; FILLER is one token that nothing is learned from."""

    def __init__(self, rows: StoredRows) -> None:
        self._rows = rows
        self.lengths: Sequence[int] = rows.lengths.tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self._rows[0].filler() if index == FILLER else self._rows[index]
