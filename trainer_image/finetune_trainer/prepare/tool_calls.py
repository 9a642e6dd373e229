"""Tools and calls of tools, in the spellings that data sets have: all become OpenAI's."""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.prepare.row_reading import Reading, kind_of

_CALLS = 'a list of calls as {"function": {"name": …, "arguments": {…}}}'
_TOOLS = 'a list of functions as {"type": "function", "function": {"name": …, "parameters": {…}}}'


def read_tools(reading: Reading, value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    """The functions that may be called: a list, or a string of JSON that holds one; bare functions are wrapped."""
    if isinstance(value, str):
        value = reading.json(value, field, _TOOLS) if value.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise reading.error(f"must be {_TOOLS}, this is {kind_of(value)}", field)
    return tuple(_tool(reading, tool, f"{field}[{index}]") for index, tool in enumerate(value))


def read_calls(reading: Reading, value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    """The calls of one answer: a list, one call alone, or a string of JSON that holds either."""
    if isinstance(value, str):
        value = reading.json(value, field, _CALLS) if value.strip() else None
    if value is None:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise reading.error(f"must be {_CALLS}, this is {kind_of(value)}", field)
    return tuple(_call(reading, call, f"{field}[{index}]") for index, call in enumerate(value))


def _tool(reading: Reading, tool: Any, field: str) -> Mapping[str, Any]:
    # A column of objects in Parquet has every key in every row, null where the row has none.
    tool = _without_nulls(tool)
    if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
        tool = {"type": "function", **tool}
    elif isinstance(tool, dict) and tool.get("type", "function") == "function":
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    if not isinstance(tool, dict) or not isinstance(tool.get("function", {}).get("name"), str):
        raise reading.error(f"has no function with a name; tools must be {_TOOLS}", field)
    return tool


def _call(reading: Reading, call: Any, field: str) -> Mapping[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise reading.error(f"has no name of a function; calls must be {_CALLS}", field)
    beside = {"id", "index"} if function is call else set()
    reading.unused(call, {"id", "type", "function", "name", "arguments", "index"}, "key of a tool call", field)
    reading.unused(function, {"name", "arguments", "type", *beside}, "key of a tool call", f"{field}.function")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    arguments = _arguments(reading, function.get("arguments"), f"{field}.function.arguments")
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _arguments(reading: Reading, value: Any, field: str) -> dict[str, Any]:
    expected = "an object, or a string of JSON that holds one"
    if isinstance(value, str):
        value = reading.json(value, field, expected) if value.strip() else {}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise reading.error(f"must be {expected}, this is {kind_of(value)}", field)
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
