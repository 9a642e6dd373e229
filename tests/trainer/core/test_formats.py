"""Every column and key of a row is used, remarked or refused, in each format and spelling."""

from typing import Any

import pytest

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.conversations import Message
from finetune_trainer.prepare.formats import parse
from finetune_trainer.prepare.readers import Row

ASKED = {"role": "user", "content": "Late?"}
CALLS = ({"type": "function", "function": {"name": "gate", "arguments": {"door": "north"}}},)
FUNCTION = {"name": "gate", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def answer(**keys: Any) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", **keys}]}


@pytest.mark.parametrize(
    "keys",
    [
        {"content": None, "tool_calls": [{"type": "function", "function": CALLS[0]["function"]}]},
        {"tool_calls": [{"function": {"name": "gate", "arguments": '{"door": "north"}'}}]},
        {"content": "", "tool_calls": [{"name": "gate", "arguments": {"door": "north"}}]},
        {"content": "", "tool_calls": '[{"name": "gate", "arguments": {"door": "north"}}]'},
        {"content": None, "function_call": {"name": "gate", "arguments": '{"door": "north"}'}},
    ],
    ids=["object", "string of JSON", "flat", "all of it a string", "one call, the old key"],
)
def test_tool_calls_are_read_in_each_spelling(keys: dict[str, Any]) -> None:
    assert parse(Row("rows", 1, answer(**keys)), "messages").messages[-1] == Message("assistant", "", tool_calls=CALLS)


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [TOOL]},
        {"tools": [FUNCTION]},
        {"tools": [{"type": "function", **FUNCTION, "strict": None}]},
        {"tools": '[{"name": "gate", "parameters": {"type": "object"}}]'},
        {"functions": [FUNCTION]},
    ],
    ids=["OpenAI's", "bare", "flat", "a string of JSON", "the old column"],
)
def test_tools_are_read_in_each_spelling(columns: dict[str, Any]) -> None:
    assert parse(Row("rows", 1, {**answer(content="No."), **columns}), "messages").tools == (TOOL,)


def test_sharegpt_has_calls_and_observations() -> None:
    turns = [
        {"from": "human", "value": "Late?"},
        {"from": "function_call", "value": '<think>look</think>{"name": "gate", "arguments": {"door": "north"}}'},
        {"from": "observation", "value": "open"},
        {"from": "gpt", "value": "No."},
    ]
    row = Row("rows", 1, {"conversations": turns, "tools": "[]", "system": ""})
    assert parse(row, "sharegpt").messages == (
        Message("user", "Late?"),
        Message("assistant", "", reasoning="look", tool_calls=CALLS),
        Message("tool", "open"),
        Message("assistant", "No."),
    )


def test_each_format_reads_the_other_spelling_of_a_turn() -> None:
    turns = [{"role": "user", "content": "Late?"}, {"role": "assistant", "content": "No."}]
    assert parse(Row("rows", 1, {"conversations": turns}), "sharegpt").messages == (
        Message("user", "Late?"),
        Message("assistant", "No."),
    )


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_read_by_each_of_its_names(key: str) -> None:
    message = parse(Row("rows", 1, answer(content="No.", **{key: "look"})), "messages").messages[-1]
    assert message == Message("assistant", "No.", reasoning="look")


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ([{"type": "text", "text": "No."}], "No.", ""),
        ([{"type": "text", "text": "No."}, {"type": "output_text", "text": "Yes."}], "No.\nYes.", ""),
        (["No."], "No.", ""),
        ({"type": "text", "text": "No."}, "No.", ""),
        ([{"type": "thinking", "thinking": "look"}, {"type": "text", "text": "No."}], "No.", "look"),
    ],
    ids=["one", "two", "bare", "not a list", "with a thought"],
)
def test_parts_of_text_are_joined(content: Any, text: str, thought: str) -> None:
    assert parse(Row("rows", 1, answer(content=content)), "messages").messages[-1] == Message(
        "assistant", text, reasoning=thought
    )


def test_weight_0_is_not_learned() -> None:
    turns = [ASKED, {"role": "assistant", "content": "", "weight": 0}, ASKED, {"role": "assistant", "content": "No."}]
    row = Row("rows", 1, {"messages": [*turns[:3], {**turns[3], "weight": 1.0}]})
    assert [message.learned for message in parse(row, "messages").messages if message.role == "assistant"] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "values", "kinds"),
    [
        ("messages", {**answer(content="No."), "id": 7, "source": None, "tags": []}, {"column 'id' is not used"}),
        (
            "alpaca",
            {"instruction": "Who?", "output": "I.", "chosen": "I.", "rejected": "You."},
            {"column 'chosen' is not used", "column 'rejected' is not used"},
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I.", "emotion": "calm"}]},
            {"key of a turn 'emotion' is not used"},
        ),
        ("messages", answer(content="No.", refusal=None, audio={"id": "a"}), {"key of a turn 'audio' is not used"}),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "Hello."}, *answer(content="No.")["messages"]]},
            {"conversation starts with the assistant: not learned"},
        ),
    ],
    ids=["column", "preference columns", "key of a turn", "null and sound", "greeting"],
)
def test_what_is_not_used_is_remarked(name: Any, values: dict[str, Any], kinds: set[str]) -> None:
    remarks = parse(Row("rows", 7, values), name).remarks
    assert {remark.kind for remark in remarks} == kinds
    assert all("rows, row 7" in remark.example for remark in remarks)


@pytest.mark.parametrize(
    ("name", "values", "want"),
    [
        (
            "messages",
            answer(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
            "field 'messages[1].content[0]': a part of type 'image_url' is not text, and only text is learned; remove "
            "it, or the row",
        ),
        (
            "messages",
            {**answer(content="No."), "images": ["a.png"]},
            "field 'images': only text is learned; remove the column, or the row",
        ),
        (
            "messages",
            answer(content="No.", weight=0.5),
            "field 'messages[1].weight': must be 0 (not learned) or 1 (learned), this is 0.5",
        ),
        (
            "messages",
            answer(content="No.", weight=0),
            "field 'messages': there is no answer to learn: each has weight 0, or nothing before it; add one, or "
            "remove the row",
        ),
        (
            "messages",
            answer(content=None, tool_calls=[{"function": {"name": "gate", "arguments": "{"}}]),
            "field 'messages[1].tool_calls[0].function.arguments': must be an object, or a string of JSON that holds "
            "one; this is not readable JSON",
        ),
        (
            "messages",
            answer(content="No.", reasoning_content="a", thinking="b"),
            "field 'messages[1].reasoning_content': a turn has one thought, and these differ; keep one of them",
        ),
        (
            "messages",
            {"messages": [{**ASKED, "tool_calls": [CALLS[0]]}, *answer(content="No.")["messages"][1:]]},
            "field 'messages[0].tool_calls': only an answer calls tools, this is a turn of role 'user'",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "No."}]},
            "field 'messages[0].content': is null; give the text, or \"\" if there is none",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Late?"}, {"from": "function_call", "value": "gate()"}]},
            "field 'conversations[1].value': must be a list of calls",
        ),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "Hello."}]},
            "field 'messages': there is no answer to learn",
        ),
        (
            "alpaca",
            {"instruction": "Why?", "output": "So.", "history": [["Who?", ""]]},
            "field 'history[0]': the answer is empty, so there is nothing to learn; fill it in, or remove the row",
        ),
        ("messages", {**answer(content="No."), "tools": [{"x": 1}]}, "field 'tools[0]': has no function with a name"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_its_place(name: Any, values: dict[str, Any], want: str) -> None:
    with pytest.raises(DataError) as refused:
        parse(Row("rows", 7, values), name)
    assert refused.value.message.startswith(f"rows, row 7, {want}")
