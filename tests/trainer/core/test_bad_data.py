"""Data that cannot be trained on is rejected with file, row, field and the cure, before anything else is done."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_trainer.errors import DataError
from finetune_trainer.prepare import preparation
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage

GOOD = {"instruction": "What does an architect do?", "output": "Plans."}


def _jsonl(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def _turns(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def _messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


CASES = {
    "a column is missing": (
        "rows.jsonl",
        _jsonl(GOOD, {"instruction": "Who?", "answer": "I"}),
        "{file}, row 2, field 'output': is missing; the columns are 'instruction', 'answer'",
    ),
    "a line is broken JSON": (
        "rows.jsonl",
        _jsonl(GOOD, "", '{"instruction": "Who?", '),
        "{file}, row 3: broken JSON at column 25 (Expecting property name enclosed in double quotes); "
        "each line must be one complete JSON object",
    ),
    "a line is not an object": (
        "rows.jsonl",
        _jsonl(GOOD, ["a", "list"]),
        "{file}, row 2: a row must be a JSON object, this is a list",
    ),
    "a file is not UTF-8": (
        "rows.jsonl",
        _jsonl(GOOD).encode() + b'{"instruction": "\xe9"}\n',
        "{file}, row 2: byte 18 is not UTF-8; save the file as UTF-8",
    ),
    "an answer is empty": (
        "rows.jsonl",
        _jsonl(GOOD, {"instruction": "Who?", "output": "  "}),
        "{file}, row 2, field 'output': the answer is empty, so there is nothing to learn; fill it in, or "
        "remove the row",
    ),
    "an answer is a number": (
        "rows.jsonl",
        _jsonl(GOOD, {"instruction": "How many?", "output": 7}),
        "{file}, row 2, field 'output': must be a string, this is a number",
    ),
    "columns of no known format": (
        "rows.jsonl",
        _jsonl({"question": "Who?", "answer": "I"}),
        "{file}, row 1: no column instruction (alpaca), conversations (sharegpt) or messages (messages); "
        "the columns are 'question', 'answer'; rename them",
    ),
    "an unknown role": (
        "rows.jsonl",
        _jsonl(_turns(("human", "Who?"), ("narrator", "I"))),
        "{file}, row 1, field 'conversations[1].from': unknown role 'narrator'; known are system, developer, user, "
        "human, assistant, gpt, chatgpt, function_call, tool, function, observation",
    ),
    "a conversation without an answer": (
        "rows.jsonl",
        _jsonl(_turns(("human", "Who?"), ("gpt", "I"), ("human", "Why?"))),
        "{file}, row 1, field 'conversations': the last message is not an answer; remove it, or add the answer",
    ),
    "a message without content": (
        "rows.jsonl",
        _jsonl(_messages(("user", "Who?"), ("assistant", None))),
        "{file}, row 1, field 'messages[1].content': is null; give the text, or tool_calls",
    ),
    "a history that is not a list of pairs": (
        "rows.jsonl",
        _jsonl({**GOOD, "history": [["Who?"]]}),
        "{file}, row 1, field 'history': must be a list of [question, answer] pairs of strings",
    ),
    "a row longer than maxLength": (
        "rows.jsonl",
        _jsonl(GOOD, {**GOOD, "output": "x" * 100}, {**GOOD, "output": "x" * 200}),
        "{file}, row 2: 119 tokens, more than spec.training.maxLength 64 (2 rows are too long, the longest has 219); "
        "set maxLength to 219, or spec.training.truncate to true, or shorten the row",
    ),
    "a .json file with one object": (
        "rows.json",
        json.dumps(GOOD),
        "{file}: the file holds an object; it must be a list of objects; put one object per line into a .jsonl file",
    ),
    "a .json file cut short": (
        "rows.json",
        '[{"instruction": "Who?"},',
        "{file}: broken JSON at line 1, column 26 (Expecting value)",
    ),
    "a CSV line with a cell too many": (
        "rows.csv",
        'instruction,output\n"Two\nlines",Yes\nWho?,I, myself\n',
        "{file}, row 4: 3 cells, but the header has 2; quote cells that contain a comma",
    ),
    "a CSV quote that is not closed": (
        "rows.csv",
        'instruction,output\nWho?,I\n"Who,I\n',
        "{file}, row 3: broken CSV (unexpected end of data)",
    ),
    "a .parquet file that is not Parquet": ("rows.parquet", "PAR0", "{file}: not a readable Parquet file ("),
    "an empty file": ("rows.jsonl", "\n", "{file}: there is no row to train on"),
}


@pytest.mark.parametrize(("name", "content", "want"), CASES.values(), ids=CASES)
def test_is_rejected(name: str, content: str | bytes, want: str, tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as refused:
        _prepare(tmp_path, tiny_model, file)
    expected = want.format(file=f"file://{file}")
    assert refused.value.message[: len(expected)] == expected
    assert want.endswith("(") or refused.value.message == expected
    assert refused.value.code == 3


def test_a_row_that_loses_its_answer_to_truncation_is_rejected(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(_jsonl(GOOD, {"instruction": "x" * 100, "output": "Yes"}))
    with pytest.raises(DataError) as refused:
        _prepare(tmp_path, tiny_model, file, truncate=True)
    want = f"file://{file}, row 2: there is no token to learn"
    want += "; its answer begins after token 64, raise spec.training.maxLength"
    assert refused.value.message == want


def test_a_row_in_a_folder_is_named_by_its_file(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([GOOD]), folder / "a.parquet")
    (folder / "deep" / "b.jsonl").write_text(_jsonl(GOOD, {"instruction": "Who?"}))
    (folder / "README.md").write_text("not data")
    with pytest.raises(DataError) as refused:
        _prepare(tmp_path, tiny_model, folder)
    want = f"file://{folder}/deep/b.jsonl, row 2, field 'output': is missing; the columns are 'instruction'"
    assert refused.value.message == want


def _prepare(tmp_path: Path, model: Path, data: Path, **training: Any) -> None:
    job = make_job({"training": {"maxLength": 64, **training}}, model=model, train=data)
    preparation.run(job, FolderStorage(tmp_path / "s3"), tmp_path / "scratch", lambda line: None)
