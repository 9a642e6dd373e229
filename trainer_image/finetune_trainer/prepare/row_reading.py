"""One row while it is read: where errors are placed, and what of it is not used."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.errors import DataError
from finetune_trainer.objectives.remarks import Remark
from finetune_trainer.prepare.readers import Row

_EXAMPLE_CHARACTERS = 60


@dataclass
class Reading:
    row: Row
    remarks: list[Remark] = field(default_factory=list)

    def error(self, message: str, field: str) -> DataError:
        return DataError(message, file=self.row.file, row=self.row.number, field=field)

    def remark(self, kind: str, place: str, value: Any) -> None:
        self.remarks.append(Remark(kind, f"{self.row.file}, row {self.row.number}, {place}: {shortened(value)}"))

    def unused(self, values: dict[str, Any], used: Collection[str], what: str, place: str = "") -> None:
        """Remarks each name that means nothing here, unless its value is empty."""
        for name in values.keys() - used:
            if not is_empty(values[name]):
                self.remark(f"{what} {name!r} is not used", f"{place}.{name}" if place else str(name), values[name])

    def json(self, text: str, field: str, expected: str) -> Any:
        """A value that the row holds as a string of JSON."""
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise self.error(f"must be {expected}; this is not readable JSON ({error})", field) from None
        return value

    def string(self, value: Any, field: str) -> str:
        if isinstance(value, str):
            return value
        raise self.error(f"must be a string, this is {kind_of(value)}", field)


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict | tuple) and not value)


def kind_of(value: Any) -> str:
    names = {list: "a list", dict: "an object", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "…"
