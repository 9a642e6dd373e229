"""What a row means: alpaca, sharegpt and messages rows become conversations.

Names and meaning of the columns are LLaMA-Factory's (data/README.md there), so that its data sets work unchanged.

Rules, each for every format:
- a column or key that means nothing here is remarked, with its count; pictures, videos and sound are refused;
- an answer without text and without a call is refused, unless its weight is 0;
- a conversation may start with the assistant: that turn answers nothing, so it is shown and not learned;
- turns of one role in a row, and system turns in the middle, stay as they are: what the chat template makes of them
  is the model's own rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.conversations import Conversation, Message
from finetune_trainer.prepare.messages import read_turn
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.row_reading import Reading, is_empty, kind_of
from finetune_trainer.prepare.tool_calls import read_tools

Format = Literal["alpaca", "sharegpt", "messages"]


def detect_format(row: Row) -> Format:
    """The format of a data set, detected by the columns of its first row.

    Raises:
        DataError: no known columns.
    """
    for column, name in _COLUMN_OF_FORMAT.items():
        if column in row.values:
            return name
    known = "instruction (alpaca), conversations (sharegpt) or messages (messages)"
    columns = ", ".join(map(repr, row.values)) or "none"
    raise DataError(f"no column {known}; the columns are {columns}; rename them", file=row.file, row=row.number)


_COLUMN_OF_FORMAT: dict[str, Format] = {"messages": "messages", "conversations": "sharegpt", "instruction": "alpaca"}


def parse(row: Row, name: Format) -> Conversation:
    """One row as a conversation, with remarks about what of it is not used.

    Raises:
        DataError: a column is missing or has the wrong type, a role is unknown, or there is nothing to learn.
    """
    reading = Reading(row)
    messages = [*_system(reading), *_PARSERS[name](reading)]
    _check_answers(reading, messages, _ANSWERS_OF_FORMAT[name])
    if messages[0].role == "assistant":
        messages[0] = replace(messages[0], learned=False)
        reading.remark("conversation starts with the assistant: not learned", messages[0].place, messages[0].content)
    if not any(message.learned for message in messages if message.role == "assistant"):
        message = "there is no answer to learn: each has weight 0, or nothing before it; add one, or remove the row"
        raise reading.error(message, _ANSWERS_OF_FORMAT[name])
    tools = _tools(reading)
    if row.values.keys() - _USED_BY_FORMAT[name]:
        _check_media(reading)
        reading.unused(row.values, _USED_BY_FORMAT[name], "column")
    return Conversation(row.file, row.number, tuple(messages), tools, tuple(reading.remarks))


_ANSWERS_OF_FORMAT: dict[Format, str] = {"alpaca": "output", "sharegpt": "conversations", "messages": "messages"}
_USED_BY_FORMAT: dict[Format, set[str]] = {
    "alpaca": {"instruction", "input", "output", "history", "system", "tools", "functions"},
    "sharegpt": {"conversations", "system", "tools", "functions"},
    "messages": {"messages", "system", "tools", "functions"},
}
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def _check_answers(reading: Reading, messages: Sequence[Message], field: str) -> None:
    if not messages or messages[-1].role != "assistant":
        raise reading.error("the last message is not an answer; remove it, or add the answer", field)
    for message in messages:
        if message.role == "assistant" and message.learned and not (message.content.strip() or message.tool_calls):
            cure = "fill it in, or remove the row"
            raise reading.error(f"the answer is empty, so there is nothing to learn; {cure}", message.place)


def _check_media(reading: Reading) -> None:
    for column in _MEDIA:
        if not is_empty(reading.row.values.get(column)):
            raise reading.error("only text is learned; remove the column, or the row", column)


def _parse_alpaca(reading: Reading) -> list[Message]:
    messages = []
    for index, pair in enumerate(_history(reading)):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise reading.error("must be a list of [question, answer] pairs of strings", "history")
        messages += [Message("user", pair[0]), Message("assistant", pair[1], place=f"history[{index}]")]
    question = "\n".join(filter(None, [_string(reading, "instruction"), _optional(reading, "input")]))
    return [*messages, Message("user", question), Message("assistant", _string(reading, "output"), place="output")]


def _history(reading: Reading) -> list[Any]:
    expected = "a list of [question, answer] pairs of strings"
    value = reading.row.values.get("history")
    if isinstance(value, str):  # as CSV has it
        value = reading.json(value, "history", expected) if value.strip() else None
    if value is not None and not isinstance(value, list):
        raise reading.error(f"must be {expected}", "history")
    return value or []


def _parse_sharegpt(reading: Reading) -> list[Message]:
    return _turns(reading, "conversations", "from", "value")


def _parse_messages(reading: Reading) -> list[Message]:
    return _turns(reading, "messages", "role", "content")


_PARSERS: dict[Format, Callable[[Reading], list[Message]]] = {
    "alpaca": _parse_alpaca,
    "sharegpt": _parse_sharegpt,
    "messages": _parse_messages,
}


def _turns(reading: Reading, field: str, role_key: str, text_key: str) -> list[Message]:
    expected = f"a list of objects with {role_key!r} and {text_key!r}, and not empty"
    turns = _value(reading, field)
    if isinstance(turns, str):  # as CSV has it
        turns = reading.json(turns, field, expected)
    if not isinstance(turns, list) or not turns:
        raise reading.error(f"must be {expected}", field)
    return [read_turn(reading, turn, f"{field}[{index}]", role_key, text_key) for index, turn in enumerate(turns)]


def _system(reading: Reading) -> list[Message]:
    text = _optional(reading, "system")
    return [Message("system", text, place="system")] if text else []


def _tools(reading: Reading) -> tuple[Any, ...]:
    values = reading.row.values
    return tuple(
        tool
        for column in ("tools", "functions")
        if not is_empty(values.get(column))
        for tool in read_tools(reading, values[column], column)
    )


def _value(reading: Reading, field: str) -> Any:
    values = reading.row.values
    if field not in values:
        raise reading.error(f"is missing; the columns are {', '.join(map(repr, values)) or 'none'}", field)
    return values[field]


def _string(reading: Reading, field: str) -> str:
    value = _value(reading, field)
    if not isinstance(value, str):
        raise reading.error(f"must be a string, this is {kind_of(value)}", field)
    return value


def _optional(reading: Reading, field: str) -> str:
    return _string(reading, field) if reading.row.values.get(field) is not None else ""
