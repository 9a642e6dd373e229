"""On the templates of the families that people use, exactly the answers and the ends of their turns are learned."""

from typing import Any

import numpy as np
import pytest

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.answers import lesson
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation
from finetune_trainer.objectives.objective import TokenRow
from finetune_trainer.objectives.sft.rows import AnswerRenderer
from finetune_trainer.prepare.formats import parse
from finetune_trainer.prepare.readers import Row
from tests.trainer.families import EACH, FAMILIES, KINDS, MARKS, NO, PREFIX, Family

_QUESTION, _AGAIN = {"role": "user", "content": "Who opens it?"}, {"role": "user", "content": "Since when?"}
_PORTER, _MAY = {"role": "assistant", "content": "The porter — ü."}, {"role": "assistant", "content": "Since May."}
_CALL = {"id": "call12345", "type": "function", "function": {"name": "gate", "arguments": '{"door": "north \\"n\\""}'}}
_TOOL = {
    "type": "function",
    "function": {"name": "gate", "description": "state", "parameters": {"type": "object", "properties": {"door": {}}}},
}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "turns": {"messages": [_QUESTION, _PORTER, _AGAIN, _MAY]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, _QUESTION, _PORTER, _AGAIN, _MAY]},
    "tools": {
        "tools": [_TOOL],
        "messages": [
            _QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "content": "open", "tool_call_id": "call12345"},
            _PORTER,
            _AGAIN,
            _MAY,
        ],
    },
    "thoughts": {
        "messages": [
            _QUESTION,
            {**_PORTER, "reasoning_content": "Somebody must."},
            _AGAIN,
            {**_MAY, "reasoning_content": "It was spring."},
        ]
    },
}
SAID = {
    "turns": [["The porter — ü."], ["Since May."]],
    "system": [["The porter — ü."], ["Since May."]],
    "tools": [["gate", "door"], ["The porter — ü."], ["Since May."]],
    "thoughts": [["Somebody must.", "The porter — ü."], ["It was spring.", "Since May."]],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_answers_are_learned_in_the_stated_way(family: Family, kind: str) -> None:
    chat = family.chat()
    conversation = parse(Row("rows", 1, CONVERSATIONS[kind]), "messages")
    if family.ways[kind] == NO:
        with pytest.raises(DataError, match="rows, row 1"):
            list(AnswerRenderer(chat).render([conversation]))
        return
    [rendered] = AnswerRenderer(chat).render([conversation])
    assert _way(chat, len(rendered.rows)) == family.ways[kind]
    runs = [run for row in rendered.rows for run in _runs(chat.tokenizer, row)]
    assert len(runs) == len(SAID[kind])
    for run, words in zip(runs, SAID[kind], strict=True):
        positions = [run.index(word) for word in words]
        assert positions == sorted(positions)
        assert "Who opens" not in run
    assert runs[-1].endswith(SAID[kind][-1][-1] + family.end)
    if kind in {"turns", "system"} and family.ways[kind] != EACH:
        assert [run.lstrip(" ") for run in runs] == [words[0] + family.end for words in SAID[kind]]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_is_what_the_model_sees_at_inference(family: Family) -> None:
    """Every learned answer stands behind the prompt that the template writes for it."""
    chat = family.chat()
    conversation = parse(Row("rows", 1, CONVERSATIONS["turns"]), "messages")
    for trained in lesson(chat, conversation, [1, 3]).texts:
        for turn, (start, _) in zip(trained.turns, trained.spans, strict=True):
            messages = [message.as_dict() for message in conversation.messages[:turn]]
            asked = chat.tokenizer.apply_chat_template(
                messages, chat_template=chat.template, tokenize=False, add_generation_prompt=True
            )
            assert trained.text[:start].rstrip() == asked.rstrip()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_has_one_bos_where_the_template_writes_it(family: Family) -> None:
    chat = family.chat()
    [rendered] = AnswerRenderer(chat).render([_conversation()])
    if "bos_token" in chat.template and chat.tokenizer.bos_token_id != chat.tokenizer.eos_token_id:
        for row in rendered.rows:
            assert np.flatnonzero(row.ids == chat.tokenizer.bos_token_id).tolist() == [0]


def _conversation() -> Conversation:
    return parse(Row("rows", 1, CONVERSATIONS["turns"]), "messages")


def _way(chat: Chat, rows: int) -> str:
    if rows > 1:
        return EACH
    return MARKS if chat.marks_answers else PREFIX


def _runs(tokenizer: Any, row: TokenRow) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.supervised.astype(int), [0]])))
    return [tokenizer.decode(row.ids[start:end]) for start, end in edges.reshape(-1, 2)]
