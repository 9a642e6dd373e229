"""Public reports of files that were read wrong, not at all, or not to the end; and siblings of each."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.cases.trying import Bench, Try

GATE, LUNCH = ["The porter does.<|im_end|>"], ["At noon.<|im_end|>"]
ROWS = [
    {"instruction": "Who opens the gate?", "output": "The porter does."},
    {"instruction": "When is lunch?", "output": "At noon."},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _learned(attempt: Try) -> list[list[str]]:
    prepared = attempt.prepare()
    assert (prepared.code, prepared.crashed) == (0, False), prepared.record.message
    return attempt.learned()


def _refused(attempt: Try) -> str:
    prepared = attempt.prepare()
    assert (prepared.code, prepared.crashed) == (3, False), prepared.log
    return str(prepared.record.message)


@pytest.mark.parametrize(
    ("case", "learned"),
    [
        ("08-jsonl-named-json", [GATE, LUNCH]),
        ("12-csv-numbers", [["5<|im_end|>"], ["1.50<|im_end|>"], ["007<|im_end|>"]]),
        ("13-parquet-structs", [["Sneekermeer.<|im_end|>"], ["Posbank.<|im_end|>"]]),
        ("56-gz-file", [GATE, LUNCH]),
    ],
)
def test_is_read(case: str, learned: list[list[str]], bench: Bench) -> None:
    assert _learned(bench.case(case)) == learned


def test_odd_characters_are_learned_as_they_are(bench: Bench) -> None:
    attempt = bench.case("11-odd-bytes")
    rows = _data(attempt).read_text(encoding="utf-8-sig").split("\n")  # translated from CRLF
    answers = [json.loads(row)["output"] for row in rows if row.strip()]
    assert len(answers) > 1
    assert _learned(attempt) == [[f"{answer}<|im_end|>"] for answer in answers]


def test_a_cell_of_140_000_characters_is_read_and_truncated(bench: Bench, tmp_path: Path) -> None:
    """09-csv-big-cell."""
    file = tmp_path / "rows.csv"
    file.write_text(f'instruction,output\nWhen is lunch?,At noon.\nWho opens?,"{"long, " * 24_000}"\n')
    attempt = bench.of(file, {"training": {"maxLength": 128, "truncate": True}})
    first, second = _learned(attempt)
    assert first == LUNCH
    assert second[0].startswith("long, long, ")


def test_half_of_a_character_is_refused(bench: Bench) -> None:
    attempt = bench.case("05-lone-surrogate")
    assert _refused(attempt) == (
        f"file://{_data(attempt)}, row 2, field 'output': character 5 is half of a character (U+D83D); remove "
        "it, or write both"
    )


def test_an_evaluation_file_without_rows_is_refused(bench: Bench) -> None:
    attempt = bench.case("22-empty-eval-file")
    assert _refused(attempt) == (
        f"file://{_data(attempt).with_name('eval.jsonl')}: there is no row to evaluate on; fill it, or leave "
        "spec.dataset.evaluation out"
    )


def test_packed_files_of_a_folder_are_read_and_the_others_are_named(bench: Bench, tmp_path: Path) -> None:
    assert len(_learned(bench.case("10-gz-in-folder"))) == 3
    (tmp_path / "0.jsonl").write_bytes(LINES)
    (tmp_path / "1.csv.bz2").write_bytes(bz2.compress(b"instruction,output\nWho locks up?,The guard.\n"))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "2.parquet", compression="zstd")
    (tmp_path / "3.jsonl.zst").write_bytes(pa.compress(LINES, "zstd", asbytes=True))
    (tmp_path / "notes.txt").write_text("Who?")
    attempt = bench.of(tmp_path)
    assert _learned(attempt) == [GATE, LUNCH, ["The guard.<|im_end|>"], GATE, LUNCH, GATE, LUNCH]
    assert attempt.prepared is not None
    assert f"warning: 1 files under file://{tmp_path} are not read: notes.txt (not data by its suffix)" in (
        attempt.prepared.log
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("rows.jsonl", json.dumps(ROWS).encode(), id="a list in a .jsonl file"),
        pytest.param("rows.csv", LINES, id="JSON lines in a .csv file"),
        pytest.param("rows", gzip.compress(LINES), id="gzip without a suffix"),
        pytest.param("rows.jsonl", LINES.replace(b"\n", b"\r"), id="CR alone"),
    ],
)
def test_a_misnamed_file_is_read(name: str, content: bytes, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert _learned(bench.of(tmp_path / name)) == [GATE, LUNCH]


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        pytest.param("rows.jsonl", LINES.decode().encode("utf-16"), "is UTF-16; save it as UTF-8", id="UTF-16"),
        pytest.param("rows.jsonl.gz", gzip.compress(LINES)[:-9], "it is cut off or damaged", id="gzip cut off"),
        pytest.param("rows.jsonl", b'{"a": ' * 10_000 + b"1" + b"}" * 10_000, "200 levels deep", id="nesting"),
        pytest.param("rows.json", b'[{"instruction": ' + b"9" * 5_000 + b"}]", "write it as a string", id="digits"),
        pytest.param("rows.csv", b'instruction,output\n"\xe9",I\n', "row 2, field 'instruction': byte 1", id="latin-1"),
        pytest.param("rows.csv", b"instruction;output\nWho?;I\n", "separated by semicolons", id="semicolons"),
        pytest.param("rows.csv", b"instruction,output,output\n1,2,3\n", "row 1, field 'output'", id="headers"),
        pytest.param("rows.jsonl", b'{"instruction": "", "instruction": ""}', "appears twice", id="keys"),
        pytest.param("rows.parquet", b"", "there is no row to train on", id="zero bytes"),
        pytest.param("rows.jsonl", bytes(4_096), "NUL bytes", id="NUL"),
    ],
)
def test_a_broken_file_is_refused(name: str, content: bytes, want: str, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = _refused(bench.of(tmp_path / name))
    assert want in message
    assert message.startswith(f"file://{tmp_path / name}")


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b"instruction,output\n"], ids=repr)
def test_an_evaluation_source_needs_rows(content: bytes, bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    held_out = tmp_path / ("eval.csv" if content.startswith(b"i") else "eval.json")
    held_out.write_bytes(content)
    spec: dict[str, Any] = {"dataset": {"evaluation": {"source": f"file://{held_out}"}}}
    assert "there is no row to evaluate on" in _refused(bench.of(tmp_path / "rows.jsonl", spec))


def _data(attempt: Try) -> Path:
    return Path(attempt.job.spec.dataset.train[0].source.removeprefix("file://"))
