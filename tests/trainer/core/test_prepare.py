"""Rows of text become rows of tokens: what is learned, what is held out, and when existing rows are reused."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_contract.jobspec import JobFile
from finetune_contract.termination import PreparedResult
from finetune_trainer.objectives.answers import end_of_turn, prompt
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation, Message
from finetune_trainer.objectives.sft.rows import AnswerRenderer
from finetune_trainer.prepare import preparation, store
from finetune_trainer.prepare.formats import parse
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.templates import TEMPLATES
from tests.trainer.builders import make_job
from tests.trainer.folders import FolderStorage
from tests.trainer.models import tiny_tokenizer
from tests.trainer.runs import Bench, write_rows

TALK = (
    Message("system", "Be brief."),
    Message("user", "Who?"),
    Message("assistant", "I."),
    Message("user", "Why?"),
    Message("assistant", "So."),
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alpaca", {"system": "Be brief.", "history": [["Who?", "I."]], "instruction": "Why?", "output": "So."}),
        (
            "alpaca",
            {"system": "Be brief.", "history": [["Who?", "I."]], "instruction": "Why?", "input": "", "output": "So."},
        ),
        (
            "sharegpt",
            {
                "system": "Be brief.",
                "conversations": [
                    {"from": "human", "value": "Who?"},
                    {"from": "gpt", "value": "I."},
                    {"from": "user", "value": "Why?"},
                    {"from": "assistant", "value": "So."},
                ],
            },
        ),
        ("messages", {"messages": [message.as_dict() for message in TALK]}),
    ],
)
def test_each_format_means_the_same(name: Any, values: dict[str, Any]) -> None:
    assert parse(Row("rows", 1, values), name).messages == TALK


def test_an_alpaca_input_follows_the_instruction() -> None:
    row = Row("rows", 1, {"instruction": "Translate", "input": "Plans", "output": "Planes"})
    assert parse(row, "alpaca").messages[0] == Message("user", "Translate\nPlans")


@pytest.mark.parametrize(
    ("template", "learned"),
    [
        ("chatml", ["I.<|im_end|>", "So.<|im_end|>"]),
        ("alpaca", ["I.<|im_end|>", "So.<|im_end|>"]),
        ("default", ["I.<|im_end|>", "So.<|im_end|>"]),
        ("llama3", ["I.<|eot_id|>", "So.<|eot_id|>"]),
        # without an end-of-turn token of its own the last answer gets the model's end-of-text token
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            ["assistant: I.", "assistant: So.<|im_end|>"],
        ),
    ],
)
def test_only_answers_and_their_end_of_turn_are_learned(template: str, learned: list[str]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    tokenizer.bos_token = "<|endoftext|>"
    row = _render(AnswerRenderer(Chat(tokenizer, TEMPLATES.get(template, template))), TALK)
    runs: list[list[int]] = [[]]
    for token, supervised in zip(row.ids.tolist(), row.supervised.tolist(), strict=True):
        runs[-1].append(token) if supervised else runs.append([])
    assert [tokenizer.decode(run) for run in runs if run] == learned


def test_mask_history_learns_the_last_answer_only() -> None:
    tokenizer = tiny_tokenizer()
    row = _render(AnswerRenderer(Chat(tokenizer, TEMPLATES["chatml"]), mask_history=True), TALK)
    assert tokenizer.decode(row.ids[row.supervised]) == "So.<|im_end|>"


def test_train_on_prompt_learns_every_token() -> None:
    assert _render(
        AnswerRenderer(Chat(tiny_tokenizer(), TEMPLATES["chatml"]), train_on_prompt=True), TALK
    ).supervised.all()


@pytest.mark.parametrize("template", ["chatml", "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"])
def test_generation_stops_where_a_learned_answer_ends(template: str) -> None:
    tokenizer = tiny_tokenizer()
    chat = Chat(tokenizer, TEMPLATES.get(template, template))
    row = _render(AnswerRenderer(chat), TALK)
    stop = end_of_turn(chat, Conversation("rows", 1, TALK))
    assert stop == row.ids[row.supervised][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_prompt_ends_where_the_answer_begins() -> None:
    asked = prompt(Chat(tiny_tokenizer(), TEMPLATES["chatml"]), Conversation("rows", 1, TALK[1:3]))
    assert asked == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_each_file_type_gives_the_same_rows(suffix: str, bench: Bench) -> None:
    want = _run(bench, make_job(model=bench.model, train=bench.rows))
    rows = [json.loads(line) for line in bench.rows.read_text().splitlines()]
    file = bench.root / f"other{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".csv":
        with file.open("w", newline="") as target:
            writer = csv.DictWriter(target, ["instruction", "output"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(json.dumps(rows) if suffix == ".json" else bench.rows.read_text() + "\n")
    got = _run(bench, make_job(model=bench.model, train=file))
    assert _rows(bench, got) == _rows(bench, want)
    assert got.digest != want.digest


def test_counts_are_exact(bench: Bench) -> None:
    lines: list[str] = []
    job = make_job({"dataset": {"splitFraction": 0.2}}, model=bench.model, train=bench.rows)
    result = preparation.run(job, bench.storage, bench.root / "scratch", lines.append)
    prepared = store.read(bench.root / "s3" / result.uri.removeprefix("s3://"))
    assert (result.train_rows, result.evaluation_rows, result.parameters) == (8, 2, 31_520)
    assert result.tokens == sum(row.length for row in prepared.train)
    assert result.supervised_tokens == sum(int(row.supervised.sum()) for row in prepared.train)
    assert result.longest_row == max(row.length for row in [*prepared.train, *prepared.evaluation])
    assert [question.question for question in prepared.questions] == [
        "What does an architect do?",
        "May the roof become higher?",
    ]
    assert lines[:2] == [
        "model: Qwen2ForCausalLM, 31,520 parameters",
        f"file://{bench.rows}: format alpaca (detected by its columns)",
    ]


def test_the_same_inputs_are_prepared_once(bench: Bench) -> None:
    job = make_job(model=bench.model, train=bench.rows)
    first = _run(bench, job)
    copy = write_rows(bench.root / "copy-of-rows.jsonl")
    second = _run(bench, make_job(model=bench.model, train=copy, name="another-job"))
    assert (first.reused, second.reused) == (False, True)
    assert second == first.model_copy(update={"reused": True})


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": {"template": "alpaca"}},
        {"dataset": {"trainOnPrompt": True}},
        {"dataset": {"maskHistory": True}},
        {"dataset": {"splitFraction": 0.3}},
        {"dataset": {"maxSamples": 5}},
        {"training": {"maxLength": 512}},
        {"training": {"truncate": True}},
        {"training": {"seed": 7}},
    ],
    ids=str,
)
def test_a_different_option_is_a_different_preparation(spec: dict[str, Any], bench: Bench) -> None:
    base = _run(bench, make_job(model=bench.model, train=bench.rows))
    assert _run(bench, make_job(spec, model=bench.model, train=bench.rows)).digest != base.digest


def test_damaged_rows_are_prepared_again(bench: Bench) -> None:
    job = make_job(model=bench.model, train=bench.rows)
    result = _run(bench, job)
    (bench.root / "s3" / result.uri.removeprefix("s3://") / "train.safetensors").unlink()
    again = _run(bench, job)
    assert (again.reused, again.digest) == (False, result.digest)


def test_truncation_cuts_the_end(bench: Bench) -> None:
    spec = {"dataset": {"splitFraction": 0}, "training": {"maxLength": 40, "truncate": True}}
    result = _run(bench, make_job(spec, model=bench.model, train=bench.rows))
    whole = _run(bench, make_job({"dataset": {"splitFraction": 0}}, model=bench.model, train=bench.rows))
    assert result.longest_row == 40
    assert [ids[:40] for ids in _rows(bench, whole)] == _rows(bench, result)


def test_a_held_out_file_replaces_the_split(bench: Bench) -> None:
    held_out = write_rows(
        bench.root / "held-out.jsonl",
        [("Who?", "I."), ("May the roof become higher?", "The roof may not become higher.")],
    )
    lines: list[str] = []
    job = make_job({"dataset": {"evaluation": {"source": f"file://{held_out}"}}}, model=bench.model, train=bench.rows)
    result = preparation.run(job, bench.storage, bench.root / "scratch", lines.append)
    assert (result.train_rows, result.evaluation_rows) == (10, 2)
    assert "warning: 1 held-out rows are also among the training rows: their score will be too good" in lines


def test_the_split_does_not_depend_on_the_order_of_rows(bench: Bench) -> None:
    def held_out(rows: Path) -> set[str]:
        result = _run(bench, make_job({"dataset": {"splitFraction": 0.3}}, model=bench.model, train=rows))
        return {
            question.question for question in store.read(bench.root / "s3" / result.uri.removeprefix("s3://")).questions
        }

    backwards = bench.root / "backwards.jsonl"
    backwards.write_text("\n".join(reversed(bench.rows.read_text().splitlines())))
    assert held_out(bench.rows) == held_out(backwards)
    assert len(held_out(bench.rows)) == 3


def test_one_row_is_left_to_train_on(bench: Bench) -> None:
    rows = write_rows(bench.root / "one.jsonl", [("Who?", "I.")])
    result = _run(bench, make_job({"dataset": {"splitFraction": 0.5}}, model=bench.model, train=rows))
    assert (result.train_rows, result.evaluation_rows) == (1, 0)


def _render(renderer: AnswerRenderer, messages: tuple[Message, ...]) -> Any:
    return next(renderer.render([Conversation("rows", 1, messages)])).rows[0]


def _run(bench: Bench, job: JobFile) -> PreparedResult:
    return preparation.run(job, FolderStorage(bench.root / "s3"), bench.root / "scratch", lambda line: None)


def _rows(bench: Bench, result: PreparedResult) -> list[list[int]]:
    prepared = store.read(bench.root / "s3" / result.uri.removeprefix("s3://"))
    return [row.ids.tolist() for row in prepared.train]
