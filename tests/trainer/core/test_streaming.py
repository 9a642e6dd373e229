"""Rows stream: what is held out, stored and shown does not depend on how they are batched, and is never held whole."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune_contract.progress import ProgressRecord
from finetune_trainer.objectives.conversations import Conversation, Message
from finetune_trainer.pod.record_keeper import RecordKeeper
from finetune_trainer.prepare import batches, preparation, splitting, store
from finetune_trainer.prepare.data_files import DataFile
from finetune_trainer.prepare.pace import Pace, Progress
from finetune_trainer.prepare.token_files import StoredRows, TokenSpill
from tests.trainer.builders import make_job
from tests.trainer.runs import Bench

ROWS = [([1, 2, 3], [0, 1, 1]), ([4], [1]), ([5, 6], [0, 1]), ([7, 8, 9, 10], [0, 0, 1, 1])]


def _spill(folder: Path) -> TokenSpill:
    spill = TokenSpill(folder)
    for part in (ROWS[:1], ROWS[1:]):
        spill.append(
            np.concatenate([np.array(ids) for ids, _ in part]),
            np.concatenate([np.array(learned, np.bool_) for _, learned in part]),
            np.array([len(ids) for ids, _ in part]),
        )
    spill.close()
    return spill


def _as_lists(rows: StoredRows) -> list[tuple[list[int], list[int]]]:
    return [(row.ids.tolist(), row.supervised.astype(int).tolist()) for row in rows]


@pytest.mark.parametrize("chosen", [[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
def test_the_chosen_rows_are_stored_as_safetensors(chosen: list[int], tmp_path: Path) -> None:
    want = [row for row, flag in zip(ROWS, chosen, strict=True) if flag]
    _spill(tmp_path / "spill").write(tmp_path / "rows.safetensors", np.array(chosen, np.bool_))
    stored = StoredRows.open(tmp_path / "rows.safetensors")
    assert _as_lists(stored) == want
    assert stored.lengths.tolist() == [len(ids) for ids, _ in want]
    arrays = load_file(tmp_path / "rows.safetensors")
    assert arrays["ids"].tolist() == [token for ids, _ in want for token in ids]
    assert {name: array.dtype for name, array in arrays.items()} == {
        "ids": np.int32,
        "supervised": np.uint8,
        "offsets": np.int64,
    }


def test_rows_of_the_library_are_read_in_whatever_order_it_wrote_them(tmp_path: Path) -> None:
    arrays = {"ids": np.arange(5, dtype=np.int32), "supervised": np.array([0, 1, 1, 0, 1], np.uint8)}
    save_file({**arrays, "offsets": np.array([0, 2, 5])}, tmp_path / "rows.safetensors")
    assert _as_lists(StoredRows.open(tmp_path / "rows.safetensors")) == [([0, 1], [0, 1]), ([2, 3, 4], [1, 0, 1])]


def test_rows_are_views_of_the_file(tmp_path: Path) -> None:
    _spill(tmp_path / "spill").write(tmp_path / "rows.safetensors", np.ones(4, np.bool_))
    stored = StoredRows.open(tmp_path / "rows.safetensors")
    assert isinstance(stored[0].ids, np.memmap)
    assert [row.length for row in stored[1:3]] == [1, 2]
    assert stored[-1].ids.tolist() == [7, 8, 9, 10]
    with pytest.raises(IndexError):
        stored[4]


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.001, 1), (0.1, 30), (0.999, 299)])
def test_the_choice_is_that_of_earlier_versions(fraction: float, count: int) -> None:
    """By rank, the SHA-256 of seed and content; rows that say the same as they come."""
    talks = [
        Conversation("rows", index, (Message("user", f"{index % 250}?"), Message("assistant", "Yes.")))
        for index in range(300)
    ]

    def rank(talk: Conversation) -> str:
        text = "\x00".join(f"{message.role}\x01{message.content}" for message in talk.messages)
        return hashlib.sha256(f"7:{hashlib.sha256(text.encode()).hexdigest()}".encode()).hexdigest()

    want = sorted(range(300), key=lambda index: (rank(talks[index]), index))[:count]
    keys = np.frombuffer(b"".join(map(splitting.content_key, talks)), np.uint8).reshape(-1, 32)
    assert np.flatnonzero(splitting.choose_held_out(keys, fraction, 7)).tolist() == sorted(want)
    assert splitting.overlap(keys[:250], keys[200:]) == 100
    assert splitting.overlap(keys[:100], keys[100:200]) == 0


def test_reading_ends_with_the_last_row_that_is_wanted(tmp_path: Path) -> None:
    good = json.dumps({"instruction": "Who?", "output": "I."}) + "\n"
    (tmp_path / "a.jsonl").write_text(good * 300)
    (tmp_path / "b.jsonl").write_text(good * 10 + "broken\n")
    files = [DataFile(tmp_path / name, name) for name in ("a.jsonl", "b.jsonl", "missing.jsonl")]
    lines: list[str] = []
    sizes = [len(batch.rows) for batch in batches.read(files, "auto", 310, lines.append)]
    assert sizes == [256, 44, 10]
    assert [line.partition(":")[0] for line in lines] == ["a.jsonl", "b.jsonl"]


def test_long_rows_make_small_batches(tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "x" * 1_500_000}]}) + "\n"
    (tmp_path / "a.jsonl").write_text(row * 7)
    read = batches.read([DataFile(tmp_path / "a.jsonl", "a")], "messages", None, lambda line: None)
    assert [len(batch.rows) for batch in read] == [3, 3, 1]


def test_progress_tells_rows_and_what_is_left() -> None:
    now, notes, lines = [0.0], list[Progress](), list[str]()
    pace = Pace(1_000, None, lines.append, notes.append, clock=lambda: now[0])
    for _ in range(4):
        now[0] += 2
        pace.moved(100)
        pace.done(250)
    assert notes == [Progress(750, 125.0, 14)]
    assert lines == ["prepared 750 rows, 125 rows/s, 14 s left"]


def test_progress_counts_to_the_last_row_that_is_wanted() -> None:
    now, notes = [0.0], list[Progress]()
    pace = Pace(1_000_000, 1_000, lambda line: None, notes.append, clock=lambda: now[0])
    now[0] = 10
    pace.moved(100)
    pace.done(250)
    assert notes == [Progress(250, 25.0, 30)]


def test_the_record_of_a_preparation() -> None:
    keeper = RecordKeeper(make_job())
    keeper.note_preparation(Progress(750, 125.0, 14))
    want = ProgressRecord(run=1, attempt=1, activity="preparing", rows=750, rows_per_second=125.0, eta_seconds=14)
    assert keeper.record == want


def test_many_batches_give_what_one_gives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers included: the same rows, questions and counts."""

    def prepared(name: str) -> Any:
        job = make_job({"dataset": {"splitFraction": 0.3}}, model=bench.model, train=bench.rows)
        scratch = bench.root / name
        result = preparation.run(job, type(bench.storage)(scratch / "s3"), scratch, lambda line: None)
        rows = store.read(scratch / "s3" / result.uri.removeprefix("s3://"))
        return result, _as_lists(rows.train), _as_lists(rows.evaluation), list(rows.questions), rows.stats

    one = prepared("one")
    monkeypatch.setattr(batches, "_ROWS_AT_ONCE", 2)
    many = prepared("many")
    monkeypatch.setattr("finetune_trainer.prepare.pipeline.available_cpus", lambda: 2)
    monkeypatch.setattr("finetune_trainer.prepare.workers.ALONE", 1)
    shared = prepared("shared")
    assert many == one
    assert shared == one
