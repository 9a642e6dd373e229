"""What a row means: alpaca, sharegpt and messages rows become conversations.

Names and meaning of the columns are LLaMA-Factory's (data/README.md there), so that its data sets work unchanged.
"""

from collections.abc import Callable
from typing import Any, Literal

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.conversations import Conversation, Message, Role
from finetune_trainer.prepare.readers import Row

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
    """One row as a conversation.

    Raises:
        DataError: a column is missing or has the wrong type, a role is unknown, or there is nothing to learn.
    """
    conversation = Conversation(row.file, row.number, tuple(_PARSERS[name](row)))
    _check_order(conversation, _FIELD_OF_FORMAT[name])
    return conversation


def _check_order(conversation: Conversation, field: str) -> None:
    messages = conversation.messages
    if not messages or messages[-1].role != "assistant":
        raise conversation.error("the last message is not an answer; remove it, or add the answer", field)
    answers = [message for message in messages if message.role == "assistant"]
    if not any(message.content.strip() for message in answers):
        raise conversation.error(
            "the answer is empty, so there is nothing to learn; fill it in, or remove the row", field
        )


_FIELD_OF_FORMAT: dict[Format, str] = {"alpaca": "output", "sharegpt": "conversations", "messages": "messages"}


def _parse_alpaca(row: Row) -> list[Message]:
    messages = _system(row)
    for pair in row.values.get("history") or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise _error(row, "must be a list of [question, answer] pairs of strings", "history")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    question = "\n".join(filter(None, [_string(row, "instruction"), _optional(row, "input")]))
    return [*messages, Message("user", question), Message("assistant", _string(row, "output"))]


def _parse_sharegpt(row: Row) -> list[Message]:
    return _system(row) + _turns(row, "conversations", "from", "value", _SHAREGPT_ROLES)


def _parse_messages(row: Row) -> list[Message]:
    return _turns(row, "messages", "role", "content", _MESSAGES_ROLES)


_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MESSAGES_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}

_PARSERS: dict[Format, Callable[[Row], list[Message]]] = {
    "alpaca": _parse_alpaca,
    "sharegpt": _parse_sharegpt,
    "messages": _parse_messages,
}


def _turns(row: Row, field: str, role_key: str, text_key: str, roles: dict[str, Role]) -> list[Message]:
    turns = _value(row, field)
    if not isinstance(turns, list) or not turns:
        raise _error(row, f"must be a list of objects with {role_key!r} and {text_key!r}, and not empty", field)
    return [_turn(row, turn, f"{field}[{index}]", role_key, text_key, roles) for index, turn in enumerate(turns)]


def _turn(row: Row, turn: Any, place: str, role_key: str, text_key: str, roles: dict[str, Role]) -> Message:
    if not isinstance(turn, dict):
        raise _error(row, f"must be an object with {role_key!r} and {text_key!r}", place)
    role, text = turn.get(role_key), turn.get(text_key)
    if role not in roles:
        raise _error(row, f"unknown role {role!r}; known are {', '.join(roles)}", f"{place}.{role_key}")
    if not isinstance(text, str):
        raise _error(row, "must be a string" if text_key in turn else "is missing", f"{place}.{text_key}")
    return Message(roles[role], text)


def _system(row: Row) -> list[Message]:
    text = _optional(row, "system")
    return [Message("system", text)] if text else []


def _value(row: Row, field: str) -> Any:
    if field not in row.values:
        raise _error(row, f"is missing; the columns are {', '.join(map(repr, row.values)) or 'none'}", field)
    return row.values[field]


def _string(row: Row, field: str) -> str:
    value = _value(row, field)
    if not isinstance(value, str):
        raise _error(row, f"must be a string, this is {type(value).__name__}", field)
    return value


def _optional(row: Row, field: str) -> str:
    return _string(row, field) if row.values.get(field) is not None else ""


def _error(row: Row, message: str, field: str) -> DataError:
    return DataError(message, file=row.file, row=row.number, field=field)
