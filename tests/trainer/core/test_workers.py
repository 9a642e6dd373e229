"""Batches are shared among processes: results in order, the first error in order, and an end when one is killed."""

import os
import signal
from collections.abc import Iterator
from multiprocessing import parent_process
from typing import Any

import pytest

from finetune_trainer.errors import DataError, Transient
from finetune_trainer.prepare.workers import in_order


def _double(number: int) -> tuple[int, bool]:
    """And whether it was done in a worker."""
    if number == 13:
        raise DataError("is unlucky", file="rows", row=13, field="number")
    return 2 * number, parent_process() is not None


def _die(number: int) -> int:
    if parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class _Foreign:
    """Like a tokenizer whose code came with the model: what it is made of is not there in another process."""

    def __reduce__(self) -> Any:
        return _only_here, (os.getpid(),)

    def __call__(self, number: int) -> tuple[int, bool]:
        return _double(number)


def _only_here(process: int) -> _Foreign:
    if process != os.getpid():
        raise ModuleNotFoundError("No module named 'transformers_modules'")
    return _Foreign()


def _read(*numbers: int, then: Exception | None = None) -> Iterator[int]:
    yield from numbers
    if then:
        raise then


def _run(work: Any, items: Iterator[int], *, workers: int = 2, alone: int = 2, lines: list[str] | None = None) -> Any:
    report = (lines if lines is not None else []).append
    return in_order(work, items, workers=workers, report=report, alone=alone)


def test_results_come_in_order_and_the_first_are_done_here() -> None:
    found = list(_run(_double, _read(*range(12))))
    assert [number for number, _ in found] == list(range(0, 24, 2))
    assert [elsewhere for _, elsewhere in found] == [False] * 2 + [True] * 10


def test_few_items_start_no_worker() -> None:
    assert not any(elsewhere for _, elsewhere in _run(_double, _read(*range(5)), alone=5))
    assert not any(elsewhere for _, elsewhere in _run(_double, _read(*range(9)), workers=1))


@pytest.mark.parametrize("alone", [0, 30])
def test_the_first_error_counts_whether_of_the_work_or_of_the_reading(alone: int) -> None:
    later = DataError("broken JSON", file="rows", row=19)
    with pytest.raises(DataError) as first:
        list(_run(_double, _read(*range(10, 18), then=later), alone=alone))
    assert (first.value.message, first.value.row, first.value.field) == (
        "rows, row 13, field 'number': is unlucky",
        13,
        "number",
    )
    with pytest.raises(DataError, match="rows, row 19: broken JSON"):
        list(_run(_double, _read(*range(14, 18), then=later), alone=alone))


def test_a_killed_worker_is_an_end_that_names_memory() -> None:
    with pytest.raises(Transient) as killed:
        list(_run(_die, _read(*range(9))))
    assert killed.value.reason == "HostOutOfMemory"
    assert "memory" in killed.value.message


def test_work_that_cannot_travel_is_done_here() -> None:
    lines: list[str] = []
    found = list(_run(_Foreign(), _read(*range(6)), alone=0, lines=lines))
    assert found == [(2 * number, False) for number in range(6)]
    assert len(lines) == 1
    assert "No module named 'transformers_modules'" in lines[0]
