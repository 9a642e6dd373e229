"""Rows into batches: every row once, the same rows in a step however it is divided."""

from itertools import chain

import numpy as np
import pytest
import torch

from finetune_trainer.objectives.objective import TokenRow
from finetune_trainer.objectives.sft.loss import AnswerCollator
from finetune_trainer.prepare.token_files import StoredRows
from finetune_trainer.training.batches import (
    FILLER,
    BatchShape,
    RowSet,
    StepSampler,
    global_batches,
    micro_batches,
)

LENGTHS = [3, 50, 7, 9, 41, 12, 5, 33, 8, 21, 2, 17, 29]


def _row(ids: list[int], supervised: list[bool]) -> TokenRow:
    return TokenRow(np.asarray(ids, np.int32), np.asarray(supervised))


@pytest.mark.parametrize("grouped", [True, False])
def test_each_row_is_in_one_step_of_an_epoch(grouped: bool) -> None:
    steps = global_batches(LENGTHS, 4, seed=1, epoch=0, grouped=grouped)
    assert sorted(chain(*steps)) == list(range(13))
    assert [len(step) for step in steps] == [4, 4, 4, 1]


def test_the_first_step_has_the_longest_row() -> None:
    for seed in range(20):
        assert 1 in global_batches(LENGTHS, 4, seed=seed, epoch=0, grouped=True)[0]


def test_rows_of_similar_length_share_a_step() -> None:
    steps = global_batches(LENGTHS, 4, seed=1, epoch=1, grouped=True)
    spans = sorted((min(LENGTHS[row] for row in step), max(LENGTHS[row] for row in step)) for step in steps)
    assert spans == [(2, 2), (3, 8), (9, 21), (29, 50)]


def test_order_follows_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return global_batches(LENGTHS, 2, seed=seed, epoch=epoch, grouped=True)

    torch.manual_seed(1)
    first = order(7, 2)
    torch.manual_seed(2)
    assert order(7, 2) == first
    assert order(7, 3) != first
    assert order(8, 2) != first


@pytest.mark.parametrize(
    "shape",
    [BatchShape(8, 1, 1), BatchShape(4, 2, 1), BatchShape(2, 4, 1), BatchShape(4, 1, 2), BatchShape(1, 2, 4)],
    ids=lambda shape: f"{shape.per_device} rows × {shape.accumulation} × {shape.world} ranks",
)
def test_a_step_has_the_same_rows_however_it_is_divided(shape: BatchShape) -> None:
    samplers = [StepSampler(LENGTHS, shape, rank=rank, seed=3, grouped=True) for rank in range(shape.world)]
    epochs = [list(sampler) for sampler in samplers]
    assert {len(micros) for micros in epochs} == {len(samplers[0])}, "a rank with fewer would leave the others waiting"
    first = {row for micros in epochs for micro in micros[: shape.accumulation] for row in micro}
    rest = {row for micros in epochs for micro in micros[shape.accumulation :] for row in micro} - {FILLER}
    want = global_batches(LENGTHS, 8, seed=3, epoch=0, grouped=True)
    assert [first, rest] == [set(want[0]), set(want[1])]
    assert max(len(micro) for micros in epochs for micro in micros) <= shape.per_device


def test_a_rank_without_a_row_left_gets_a_filler() -> None:
    shape = BatchShape(per_device=2, accumulation=2, world=2)
    assert [micro_batches([5], shape, rank) for rank in (0, 1)] == [[[5]], [[FILLER]]]
    assert [micro_batches([5, 6, 7], shape, rank) for rank in (0, 1)] == [[[5, 6]], [[7]]]


def test_labels_are_the_next_tokens_and_only_where_learned() -> None:
    rows = [_row([5, 6, 7, 8], [False, False, True, True]), _row([9, 10], [False, True])]
    batch = AnswerCollator(pad=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 7, 8, -100], [10, -100, -100, -100]]
    assert batch["shift_labels"] is batch["labels"]


def test_a_filler_is_one_token_without_a_label() -> None:
    rows = RowSet(StoredRows(np.array([5, 6], np.int32), np.array([True, True]), np.array([0, 2])))
    batch = AnswerCollator(pad=0)([rows[FILLER]])
    assert (batch["input_ids"].tolist(), batch["labels"].tolist()) == ([[5]], [[-100]])


def test_padding_reaches_a_multiple_on_request() -> None:
    assert AnswerCollator(pad=0, multiple=8)([_row([1] * 9, [True] * 9)])["input_ids"].shape == (1, 16)
