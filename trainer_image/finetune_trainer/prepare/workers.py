"""Shares the work on batches among processes, one for each CPU of the pod; results come in the order of the batches.

Workers are started afresh (not forked: this process has threads) and without torch, which would make them five times
as large. Few rows are done sooner without them.
"""

import logging
import os
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, Generic, TypeVar

from finetune_trainer.errors import TrainerError, Transient
from finetune_trainer.rank.reporting import Report

Item = TypeVar("Item")
Result = TypeVar("Result")

ALONE = 16
"""Batches that are done here first: about as many as could be done while workers start."""
_AHEAD = 2
"""Batches for each worker that are read before a result is waited for."""


def in_order(
    work: Callable[[Item], Result], items: Iterator[Item], *, workers: int, report: Report, alone: int | None = None
) -> Iterator[Result]:
    """The result for each item.

    Args:
        work: picklable; where it is not, all is done here.
        alone: items that are done here first; `ALONE` unless given.

    Raises:
        TrainerError: of the first item, in their order, that has one; whether its work raised it or its reading.
        Transient: a worker was killed.
    """
    yield from map(work, islice(items, ALONE if alone is None else alone))
    if workers < 2:
        yield from map(work, items)
        return
    reading = _Reading(items)
    if (first := reading.next()) is not None:
        yield from _shared(work, reading, first, workers, report)
    reading.finish()


class _Reading(Generic[Item]):
    """Keeps an error of the reading until what was read before it is done."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._error: TrainerError | None = None

    def next(self) -> Item | None:
        if self._error is None:
            try:
                return next(self._items, None)
            except TrainerError as error:
                self._error = error
        return None

    def __iter__(self) -> Iterator[Item]:
        while (item := self.next()) is not None:
            yield item

    def finish(self) -> None:
        if self._error is not None:
            raise self._error


def _shared(
    work: Callable[[Item], Result], reading: _Reading[Item], first: Item, workers: int, report: Report
) -> Iterator[Result]:
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with _pool(work, workers) as pool:
        item: Item | None = first
        while item is not None or pending:
            if item is not None:
                pending.append((item, pool.submit(_work, item)))
            if item is None or len(pending) >= _AHEAD * workers:
                try:
                    yield _result(pending[0][1])
                except _CannotWork as error:
                    report(f"the work cannot be shared with other processes ({error}); this one does it alone")
                    break
                pending.popleft()
            item = reading.next()
    yield from map(work, (item for item, _ in pending))  # nothing is left of them unless it could not be shared
    yield from map(work, reading)


def _result(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        message = (
            "a process of the preparation was killed from outside, most likely because the pod's memory ran out. "
            "Raise spec.resources.memory, or lower spec.resources.cpu: each CPU has a process of its own"
        )
        raise Transient(message, reason="HostOutOfMemory") from None


@contextmanager
def _pool(work: Callable[[Any], Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    try:
        order = pickle.dumps(work)
    except Exception:  # noqa: BLE001 - a tokenizer of a stranger may raise anything
        order = b""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(order,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# --- in a worker ------------------------------------------------------------------------------------------------------
class _CannotWork(Exception):
    """What is to be done does not arrive here: a tokenizer whose code came with the model, say."""


_order: bytes = b""
_loaded: Callable[[Any], Any] | None = None


def _begin(order: bytes) -> None:
    global _order
    _order = order
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # Python reports it as not installed
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would say so
    logging.getLogger("transformers").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(item: Any) -> Any:
    global _loaded
    if _loaded is None:
        try:
            _loaded = pickle.loads(_order)  # noqa: S301 - of our own parent
        except Exception as error:  # noqa: BLE001 - code that came with a model may raise anything
            raise _CannotWork(f"{type(error).__name__}: {error}") from None
    return _loaded(item)
