"""Files of strangers: read right, or refused with file, row, field and the cure. Nothing is skipped in silence."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.prepare.data_files import DataFile, find_files
from finetune_trainer.prepare.readers import read_rows

ONE, TWO = {"instruction": "Who?", "output": "I."}, {"instruction": "Why?", "output": "So."}
LINES = b'{"instruction": "Who?", "output": "I."}\n{"instruction": "Why?", "output": "So."}\n'
ARRAY = json.dumps([ONE, TWO], indent=1).encode()
CSV = b"instruction,output\nWho?,I.\nWhy?,So.\n"


def _zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def _lz4(data: bytes) -> bytes:
    return bytes(pa.compress(data, "lz4", asbytes=True))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


PARQUET = _parquet(pa.Table.from_pylist([ONE, TWO]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("rows.jsonl", LINES, id="JSON lines"),
        pytest.param("rows.json", LINES, id="JSON lines in a .json file"),
        pytest.param("rows.jsonl", ARRAY, id="a JSON list in a .jsonl file"),
        pytest.param("rows.json", ARRAY, id="a JSON list"),
        pytest.param("rows.parquet", LINES, id="JSON lines in a .parquet file"),
        pytest.param("rows.json", PARQUET, id="Parquet in a .json file"),
        pytest.param("rows.csv", LINES, id="JSON lines in a .csv file"),
        pytest.param("rows", LINES, id="JSON lines without a suffix"),
        pytest.param("rows.txt", ARRAY, id="a JSON list in a .txt file"),
        pytest.param("rows", gzip.compress(ARRAY), id="a packed list without a suffix"),
        pytest.param("rows.jsonl", gzip.compress(LINES), id="gzip in a .jsonl file"),
        pytest.param("rows.jsonl.gz", LINES, id="a .gz file that is not packed"),
        pytest.param("rows.jsonl.gz", gzip.compress(LINES[:40]) + gzip.compress(LINES[40:]), id="gzip in two members"),
        pytest.param("rows.csv.bz2", bz2.compress(CSV), id="bzip2"),
        pytest.param("rows.json.xz", lzma.compress(ARRAY), id="xz"),
        pytest.param("rows.jsonl.zst", _zstd(LINES), id="zstd"),
        pytest.param("rows.jsonl.zst", _zstd(LINES[:40]) + _zstd(LINES[40:]), id="zstd in two frames"),
        pytest.param("rows.jsonl.lz4", _lz4(LINES), id="lz4"),
        pytest.param("rows.jsonl", b"\xef\xbb\xbf" + LINES, id="JSON lines with a byte order mark"),
        pytest.param("rows.jsonl", b"\xef\xbb\xbf" + ARRAY, id="a JSON list with a byte order mark"),
        pytest.param("rows.csv", b"\xef\xbb\xbf" + CSV, id="CSV with a byte order mark"),
        pytest.param("rows.jsonl", LINES.replace(b"\n", b"\r\n"), id="JSON lines with CRLF"),
        pytest.param("rows.jsonl", LINES.replace(b"\n", b"\r"), id="JSON lines with CR alone"),
        pytest.param("rows.csv", CSV.replace(b"\n", b"\r\n"), id="CSV with CRLF"),
        pytest.param("rows.csv", CSV.replace(b"\n", b"\r"), id="CSV with CR alone"),
        pytest.param("rows.jsonl", b"\n" * 70_000 + LINES, id="more blank lines than are looked at"),
        pytest.param("rows.jsonl", LINES.rstrip(), id="no newline at the end"),
    ],
)
def test_is_read_by_its_content(name: str, content: bytes, tmp_path: Path) -> None:
    assert [row.values for row in _rows(tmp_path / name, content)] == [ONE, TWO]


@pytest.mark.parametrize("split", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u0000"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_line_ends_only_where_the_format_says_so(split: str, suffix: str, tmp_path: Path) -> None:
    text = f"before{split}after"
    values = [{"instruction": text, "output": "I."}, TWO]
    content = {
        ".jsonl": "\n".join(json.dumps(row, ensure_ascii=split == "\u0000" or split < " ") for row in values).encode(),
        ".json": json.dumps(values, ensure_ascii=split < " ").encode(),
        ".csv": f"instruction,output\n{text},I.\nWhy?,So.\n".encode(),
        ".parquet": _parquet(pa.Table.from_pylist(values)),
    }[suffix]
    found = _rows(tmp_path / f"rows{suffix}", content)
    assert [row.values for row in found] == values
    assert [row.number for row in found] == ([2, 3] if suffix == ".csv" else [1, 2])


@pytest.mark.parametrize("size", [131_073, 1_500_000])
def test_a_cell_may_have_any_size(size: int, tmp_path: Path) -> None:
    text = "ab " * (size // 3)
    for name, content in {
        "rows.csv": f'instruction,output\n"{text}",I.\n'.encode(),
        "rows.jsonl": json.dumps({"instruction": text, "output": "I."}).encode(),
        "rows.json": json.dumps([{"instruction": text, "output": "I."}]).encode(),
    }.items():
        assert [row.values for row in _rows(tmp_path / name, content)] == [{"instruction": text, "output": "I."}]


def test_row_numbers_stay_exact_over_many_blocks(tmp_path: Path) -> None:
    rows = [{"instruction": "é" * (index % 4_000), "output": str(index)} for index in range(2_000)]
    for name, content in {
        "rows.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
        "crlf.jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
        "rows.json": json.dumps(rows, ensure_ascii=False, indent=2).encode(),
        "rows.csv": ("instruction,output\n" + "".join(f"{r['instruction']},{r['output']}\n" for r in rows)).encode(),
        "rows.parquet": _parquet(pa.Table.from_pylist(rows)),
    }.items():
        found = _rows(tmp_path / name, content)
        first = 2 if name == "rows.csv" else 1
        assert [row.number for row in found] == list(range(first, first + len(rows))), name
        assert [row.values for row in found] == rows, name


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(["Who?"]).dictionary_encode(), id="dictionary"),
        pytest.param(pa.array(["Who?"], pa.large_string()), id="large_string"),
        pytest.param(pa.array(["Who?"], pa.string_view()), id="string_view"),
    ],
)
def test_any_kind_of_string_column_is_read(column: Any, tmp_path: Path) -> None:
    table = pa.table({"instruction": column, "output": ["I."]})
    assert [row.values for row in _rows(tmp_path / "rows.parquet", _parquet(table))] == [ONE]


def _deep(levels: int) -> str:
    return '{"instruction": ' + "[" * levels + "]" * levels + ', "output": "I."}'


def _invalid_string_column() -> pa.Table:
    offsets, data = pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0])), pa.py_buffer(b"oka\xff")
    return pa.table({"instruction": pa.Array.from_buffers(pa.string(), 2, [None, offsets, data]), "output": ["I", "J"]})


def _damaged_pages() -> bytes:
    rows = [{"instruction": f"{index} " * 50, "output": "I."} for index in range(5_000)]
    whole = bytearray(_parquet(pa.Table.from_pylist(rows)))
    whole[200:2_000] = bytes(1_800)
    return bytes(whole)


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "half of a character": (
        "rows.jsonl",
        LINES + b'{"instruction": "Who? \\ud83d", "output": "I."}\n',
        ", row 3, field 'instruction': character 6 is half of a character (U+D83D); remove it, or write both",
    ),
    "half of a character, deep in a row": (
        "rows.json",
        b'[{"messages": [{"role": "user", "content": "ok \\ud83d\\ude00"}, {"role": "x", "content": "\\udc00"}]}]',
        ", row 1, field 'messages[1].content': character 1 is half of a character (U+DC00); remove it, or write both",
    ),
    "half of a character in a key": (
        "rows.jsonl",
        b'{"a\\udc00": 1}\n',
        ", row 1, field 'a\\\\udc00': character 2 is half of a character (U+DC00); remove it, or write both",
    ),
    "a key that appears twice": (
        "rows.jsonl",
        LINES + b'{"instruction": "Who?", "output": "I.", "output": "You."}\n',
        ", row 3, field 'output': the key appears twice in one object; remove one of them",
    ),
    "a key that appears twice, in a list": (
        "rows.json",
        b'[{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}]',
        ", row 1, field 'role': the key appears twice in one object; remove one of them",
    ),
    "a number of 5,000 digits": (
        "rows.jsonl",
        LINES + b'{"messages": [{"content": ' + b"9" * 5_000 + b"}]}\n",
        ", row 3, field 'messages[0].content': a number has too many digits; write it as a string",
    ),
    "a number of 5,000 digits, in a list": (
        "rows.json",
        b'[{"id": ' + b"9" * 5_000 + b"}]",
        ", row 1, field 'id': a number has too many digits; write it as a string",
    ),
    "nesting of 10,000 levels": (
        "rows.jsonl",
        LINES + _deep(10_000).encode(),
        ", row 3, field 'instruction': lists and objects are nested more than 200 levels deep; store it flatter, "
        "or as text",
    ),
    "nesting of 300 levels": (
        "rows.json",
        f"[{_deep(300)}]".encode(),
        ", row 1, field 'instruction': lists and objects are nested more than 200 levels deep; store it flatter, "
        "or as text",
    ),
    "bytes of another encoding in JSON lines": (
        "rows.jsonl",
        LINES + b'{"instruction": "caf\xe9", "output": "I."}\n',
        ", row 3: byte 21 is not UTF-8; save the file as UTF-8",
    ),
    "bytes of another encoding in a list": (
        "rows.json",
        b'[{"instruction": "caf\xe9", "output": "I."}]',
        ": byte 22 is not UTF-8; save the file as UTF-8",
    ),
    "bytes of another encoding in CSV": (
        "rows.csv",
        b'instruction,output\n"Two\nlines","\xc3\xa9t\xe9"\n',
        ", row 2, field 'output': byte 4 is not UTF-8; save the file as UTF-8",
    ),
    "bytes of another encoding in a CSV header": (
        "rows.csv",
        b"instruction,r\xe9ponse\nWho?,I.\n",
        ", row 1, field 'r?ponse': byte 2 is not UTF-8; save the file as UTF-8",
    ),
    "bytes of another encoding in Parquet": (
        "rows.parquet",
        _parquet(_invalid_string_column()),
        ", row 2, field 'instruction': byte 2 is not UTF-8; write the column as UTF-8",
    ),
    "UTF-16 with a byte order mark": (
        "rows.jsonl",
        LINES.decode().encode("utf-16"),
        ": is UTF-16; save it as UTF-8",
    ),
    "UTF-16 without one": (
        "rows.csv",
        CSV.decode().encode("utf-16-le"),
        ": begins with NUL bytes; it is UTF-16 or damaged, save it as UTF-8",
    ),
    "NUL bytes alone": (
        "rows.jsonl",
        bytes(5_000),
        ": begins with NUL bytes; it is UTF-16 or damaged, save it as UTF-8",
    ),
    "a CSV column that is named twice": (
        "rows.csv",
        b"instruction,output,output\nWho?,I.,You.\n",
        ", row 1, field 'output': the header names this column 2 times; rename or remove all but one",
    ),
    "a Parquet column that is named twice": (
        "rows.parquet",
        _parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["output", "output"])),
        ", field 'output': 2 columns have this name; rename or remove all but one",
    ),
    "semicolons between cells": (
        "rows.csv",
        b"instruction;output\nWho?;I.\n",
        ", row 1: the cells are separated by semicolons; save the file with commas between them",
    ),
    "semicolons between quoted cells": (
        "rows.csv",
        b'"instruction";"output"\n"Who?";"I."\n',
        ", row 1: the cells are separated by semicolons; save the file with commas between them",
    ),
    "tabs between cells": (
        "rows.csv",
        b"instruction\toutput\nWho?\tI.\n",
        ", row 1: the cells are separated by tabs; save the file with commas between them",
    ),
    "a quote within a quoted cell": (
        "rows.csv",
        b'instruction,output\n"Who "is" it?",I.\n',
        ", row 2: broken CSV (',' expected after '\"'; a quote within a quoted cell is written twice)",
    ),
    "a gzip file that is cut off": (
        "rows.jsonl.gz",
        gzip.compress(LINES)[:-12],
        ": cannot be unpacked (Compressed file ended before the end-of-stream marker was reached); it is cut off or "
        "damaged, upload it again",
    ),
    "a zstd file that is cut off": ("rows.jsonl.zst", _zstd(LINES)[:-8], ": cannot be unpacked ("),
    "an xz file that is cut off": ("rows.jsonl.xz", lzma.compress(LINES)[:-12], ": cannot be unpacked ("),
    "a bzip2 file that is damaged": ("rows.jsonl.bz2", bz2.compress(LINES)[:20] + bytes(30), ": cannot be unpacked ("),
    "a gzip file that is damaged": ("rows.jsonl.gz", gzip.compress(LINES)[:15] + bytes(60), ": cannot be unpacked ("),
    "a zip archive": ("rows.jsonl", b"PK\x03\x04" + bytes(60), ": is a zip archive; unpack it"),
    "a packed tar archive": (
        "rows.gz",
        gzip.compress(b"rows.jsonl".ljust(257, b"\0") + b"ustar" + bytes(500)),
        ": is a tar archive; unpack it",
    ),
    "a file that is packed twice": (
        "rows.jsonl.gz",
        gzip.compress(gzip.compress(LINES)),
        ": is packed twice; unpack it once",
    ),
    "packed Parquet": (
        "rows.parquet.gz",
        gzip.compress(PARQUET),
        ": is a packed Parquet file; unpack it, its columns are packed already",
    ),
    "encrypted Parquet": (
        "rows.parquet",
        b"PARE" + bytes(60),
        ": is an encrypted Parquet file; write it without encryption",
    ),
    "Parquet that is cut off": ("rows.parquet", PARQUET[:-20], ": not a readable Parquet file ("),
    "Parquet with damaged pages": ("rows.parquet", _damaged_pages(), ": not a readable Parquet file ("),
    "an Arrow file": ("rows.arrow", b"ARROW1\0\0" + bytes(60), ": is an Arrow file; save it as Parquet"),
    "a pointer of Git LFS": (
        "rows.parquet",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        ": is a pointer of Git LFS, not the data; fetch the data with `git lfs pull`",
    ),
    "a web page": (
        "rows.jsonl",
        b"<!DOCTYPE html><html>404</html>",
        ": is a web page or XML, not data; look at how it was downloaded",
    ),
    "text without a known suffix": (
        "rows.txt",
        b"Who?\nI.\n",
        ": is neither JSON nor Parquet; name it .csv if it is CSV with a comma between cells, else save it as JSON "
        "lines",
    ),
    "a .json file with an object on several lines": (
        "rows.json",
        json.dumps({"data": [ONE]}, indent=1).encode(),
        ": the file holds an object on several lines; it must be a list of objects, or have one object per line",
    ),
    "text after the end of a list": (
        "rows.json",
        ARRAY + b"\n\n  [1]",
        ": broken JSON at line 12, column 3 (Extra data)",
    ),
    "a list with a comma missing": (
        "rows.json",
        b'[{"a": 1}\n {"a": 2}]',
        ": broken JSON at line 2, column 2 (Expecting ',' delimiter)",
    ),
    "a list that is broken far from its beginning": (
        "rows.json",
        b"[" + b'{"a": "xxxxxxxxxxxxxxxxxxxxx"},\n' * 70_000 + b"{'a': 1}" + b',\n{"a": 1}' * 70_000 + b"]",
        ": broken JSON at line 70001, column 2 (Expecting property name enclosed in double quotes)",
    ),
    "a list of lists": (
        "rows.json",
        b'[{"a": 1}, ["Who?", "I."]]',
        ", row 2: a row must be a JSON object, this is a list",
    ),
}


@pytest.mark.parametrize(("name", "content", "want"), REFUSED.values(), ids=REFUSED)
def test_is_refused_with_its_place_and_cure(name: str, content: bytes, want: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        _rows(tmp_path / name, content)
    message = refused.value.message.removeprefix("source")
    assert message.startswith(want) if want.endswith("(") else message == want
    assert message.encode()


@pytest.mark.parametrize(
    ("column", "want"),
    [
        pytest.param(pa.array([1], pa.timestamp("ns")), "the value cannot be read (", id="nanoseconds"),
        pytest.param(pa.array([2**50], pa.timestamp("s")), "the value cannot be read (", id="a year beyond 9999"),
    ],
)
def test_a_value_that_python_cannot_have_is_named(column: Any, want: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        _rows(tmp_path / "rows.parquet", _parquet(pa.table({"instruction": ["Who?"], "seen": column})))
    assert refused.value.message.startswith(f"source, row 1, field 'seen': {want}")


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.write_bytes(b"\n \n")], ids=["empty", "blank"])
def test_an_empty_file_has_no_rows(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "rows.jsonl")
    assert list(read_rows(DataFile(tmp_path / "rows.jsonl", "source"))) == []


def test_what_is_not_read_of_a_folder_is_named_once(tmp_path: Path) -> None:
    for name in (
        "a.jsonl",
        "b.jsonl.gz",
        "deep/c.CSV",
        "README.md",
        ".hidden.jsonl",
        ".cache/d.jsonl",
        "old.jsonl.bak",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.json").touch()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "part.parquet").mkdir()
    (tmp_path / "part.parquet" / "0.snappy.parquet").write_text("x")
    lines: list[str] = []
    found = find_files("s3://b/data/", tmp_path, "spec.dataset.train[0].source", lines.append)
    assert [file.name.removeprefix("s3://b/data/") for file in found] == [
        "a.jsonl",
        "b.jsonl.gz",
        "deep/c.CSV",
        "part.parquet/0.snappy.parquet",
    ]
    assert lines == [
        "warning: 6 files under s3://b/data/ are not read: .cache/d.jsonl (hidden), .hidden.jsonl (hidden), README.md "
        "(not data by its suffix), empty.json (empty), gone.json (a broken link) and 1 more"
    ]


def test_a_folder_without_data_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ConfigurationError) as refused:
        find_files("s3://b/data", tmp_path, "spec.dataset.train[0].source", lambda line: None)
    assert refused.value.message == (
        "spec.dataset.train[0].source: there is no data file under s3://b/data; there are rows.txt (not data by its "
        "suffix). Data is .jsonl, .json, .csv, .parquet, as they are or packed (.gz, .zst, .bz2, .xz, .lz4)"
    )


def _rows(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    return list(read_rows(DataFile(path, "source")))
