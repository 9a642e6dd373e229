"""One turn of a conversation, as OpenAI's and as sharegpt's data sets spell it."""

from typing import Any

from finetune_trainer.objectives.conversations import Message, Role
from finetune_trainer.prepare.row_reading import Reading, is_empty, kind_of
from finetune_trainer.prepare.tool_calls import read_calls

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_CALL_KEYS = ("tool_calls", "function_call")
_USED = {*_ROLE_KEYS, *_TEXT_KEYS, *_REASONING_KEYS, *_CALL_KEYS, "weight", "name", "tool_call_id"}
_TEXT_PARTS = {"text", "input_text", "output_text"}


def read_turn(reading: Reading, turn: Any, place: str, role_key: str, text_key: str) -> Message:
    """
    Args:
        place: where the row has it, for error messages.
        role_key: what the row's format calls the role; the other spelling is read as well.
        text_key: what it calls the text.
    """
    if not isinstance(turn, dict):
        raise reading.error(f"must be an object with {role_key!r} and {text_key!r}, this is {kind_of(turn)}", place)
    if role_key not in turn:
        role_key = next((key for key in _ROLE_KEYS if key in turn), role_key)
    if turn.get(text_key) is None:
        text_key = next((key for key in _TEXT_KEYS if turn.get(key) is not None), text_key)
    spelled = turn.get(role_key)
    role = _ROLES.get(spelled) if isinstance(spelled, str) else None
    if role is None:
        raise reading.error(f"unknown role {spelled!r}; known are {', '.join(_ROLES)}", f"{place}.{role_key}")
    if len(turn) == 2 and spelled != "function_call" and isinstance(turn.get(text_key), str):
        return Message(role, turn[text_key], place=place)  # nearly every turn there is
    return _detailed(reading, turn, place, role, text_key, called=spelled == "function_call")


def _detailed(
    reading: Reading, turn: dict[str, Any], place: str, role: Role, text_key: str, *, called: bool
) -> Message:
    reading.unused(turn, _USED, "key of a turn", place)
    content, thought = _content(reading, turn, f"{place}.{text_key}", text_key)
    calls = _calls(reading, turn, place)
    if called:
        thought, content = _split_thought(content, thought)
        calls, content = read_calls(reading, content, f"{place}.{text_key}") + calls, ""
    if calls and role != "assistant":
        raise reading.error(f"only an answer calls tools, this is a turn of role {role!r}", f"{place}.tool_calls")
    if content is None and not calls:
        message = "is null" if text_key in turn else "is missing"
        cure = "give the text, or tool_calls" if role == "assistant" else 'give the text, or "" if there is none'
        raise reading.error(f"{message}; {cure}", f"{place}.{text_key}")
    return Message(
        role,
        content or "",
        reasoning=_reasoning(reading, turn, place, role, thought),
        tool_calls=calls,
        name=_optional(reading, turn, "name", place),
        tool_call_id=_optional(reading, turn, "tool_call_id", place),
        learned=_learned(reading, turn, place, role),
        place=place,
    )


def _content(reading: Reading, turn: dict[str, Any], place: str, key: str) -> tuple[str | None, str]:
    """The text of a turn, and the thought among its parts."""
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value, ""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise reading.error(f"must be a string, this is {kind_of(value)}", place)
    texts: list[str] = []
    thoughts: list[str] = []
    for index, part in enumerate(value):
        kind, text = _part(reading, part, f"{place}[{index}]")
        (thoughts if kind == "thinking" else texts).append(text)
    return ("\n".join(texts) if texts else None), "\n".join(thoughts)


def _part(reading: Reading, part: Any, place: str) -> tuple[str, str]:
    if isinstance(part, str):
        return "text", part
    kind = part.get("type", "text") if isinstance(part, dict) else kind_of(part)
    key = "thinking" if kind == "thinking" else "text"
    if kind != "thinking" and kind not in _TEXT_PARTS:
        cure = "put calls into tool_calls" if kind == "tool_use" else "remove it, or the row"
        raise reading.error(f"a part of type {kind!r} is not text, and only text is learned; {cure}", place)
    reading.unused(part, {"type", key}, "key of a part", place)
    return kind, reading.string(part.get(key), f"{place}.{key}")


def _calls(reading: Reading, turn: dict[str, Any], place: str) -> tuple[Any, ...]:
    return tuple(
        call for key in _CALL_KEYS if turn.get(key) for call in read_calls(reading, turn[key], f"{place}.{key}")
    )


def _split_thought(content: str | None, thought: str) -> tuple[str, str | None]:
    """A function call may follow the thought that led to it."""
    before, message = Message("assistant", content or ""), content
    found, text = before.thought_and_text()
    return (found, text) if found and not thought else (thought, message)


def _reasoning(reading: Reading, turn: dict[str, Any], place: str, role: Role, thought: str) -> str:
    found = {key: turn[key] for key in _REASONING_KEYS if not is_empty(turn.get(key))}
    if role != "assistant":
        reading.unused(found, (), "thought of a turn that is no answer:", place)
        return ""
    texts = [reading.string(value, f"{place}.{key}") for key, value in found.items()]
    texts += [thought] if thought else []
    if len(set(texts)) > 1:
        message = "a turn has one thought, and these differ; keep one of them"
        raise reading.error(message, f"{place}.{next(iter(found))}")
    return texts[0] if texts else ""


def _optional(reading: Reading, turn: dict[str, Any], key: str, place: str) -> str | None:
    return None if is_empty(turn.get(key)) else reading.string(turn[key], f"{place}.{key}")


def _learned(reading: Reading, turn: dict[str, Any], place: str, role: Role) -> bool:
    weight = turn.get("weight")
    if weight is None:
        return True
    if not isinstance(weight, int | float) or weight not in {0, 1}:
        message = f"must be 0 (not learned) or 1 (learned), this is {weight!r}"
        raise reading.error(message, f"{place}.weight")
    if role != "assistant":
        reading.unused({"weight": weight}, (), "on a turn that is no answer:", place)
    return bool(weight)
