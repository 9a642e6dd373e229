"""Work that all ranks of a node need is done by one of them."""

import threading
from pathlib import Path

import pytest

from finetune_trainer.rank.per_node import once_per_node


@pytest.mark.races
def test_one_rank_does_the_work_and_all_get_its_result(tmp_path: Path) -> None:
    calls: list[int] = []
    results: list[Path] = []
    lock = threading.Lock()

    def want(rank: int) -> None:
        def action() -> Path:
            calls.append(rank)
            return tmp_path / "model"

        result = once_per_node(tmp_path, "model", action)
        with lock:
            results.append(result)

    ranks = [threading.Thread(target=want, args=(rank,)) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert (len(calls), results) == (1, [tmp_path / "model"] * 4)


def test_a_rank_that_fails_leaves_the_work_to_the_next(tmp_path: Path) -> None:
    def fail() -> Path:
        raise OSError("network")

    with pytest.raises(OSError, match="network"):
        once_per_node(tmp_path, "model", fail)
    assert once_per_node(tmp_path, "model", lambda: tmp_path / "model") == tmp_path / "model"
