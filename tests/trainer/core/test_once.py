"""A thing that several ranks of a node want is done by one of them."""

import threading
from pathlib import Path

import pytest

from finetune_trainer.rank.once import once_per_node


@pytest.mark.races
def test_it_is_done_once_and_everyone_gets_the_result(tmp_path: Path) -> None:
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


def test_who_fails_leaves_it_to_the_next(tmp_path: Path) -> None:
    def fail() -> Path:
        raise OSError("network")

    with pytest.raises(OSError, match="network"):
        once_per_node(tmp_path, "model", fail)
    assert once_per_node(tmp_path, "model", lambda: tmp_path / "model") == tmp_path / "model"
