"""FineTuneJob.status as a value: parsed from the stored object, changed by `replace`, dumped for the one write.

Blocks that are only shown (plan, prepared, progress, …) stay plain mappings; what decisions are taken on is typed.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_contract.jobspec import Attempt
from finetune_operator.core.conditions import Condition, ConditionStatus, ConditionType, find
from finetune_operator.core.objects import Raw

MAX_HISTORY = 10


@dataclass(frozen=True)
class Status:
    observed_generation: int = 0
    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    run: int = 0
    run_hash: str = ""
    restarted_at: str = ""
    attempt: int = 0
    prepare_attempt: int = 0
    current_attempt: Raw = field(default_factory=dict)
    failures: int = 0
    stops: int = 0
    next_attempt_time: str = ""
    child: Raw = field(default_factory=dict)
    plan: Raw = field(default_factory=dict)
    prepared: Raw = field(default_factory=dict)
    progress: Raw = field(default_factory=dict)
    checkpoint: Raw = field(default_factory=dict)
    artifact: Raw = field(default_factory=dict)
    evaluation: Raw = field(default_factory=dict)
    start_time: str = ""
    completion_time: str = ""
    history: tuple[Raw, ...] = ()

    @classmethod
    def parse(cls, raw: Raw) -> "Status":
        known = {name: raw[key] for name, key in _keys(fields(cls)).items() if key in raw}
        known["conditions"] = tuple(Condition.parse(condition) for condition in raw.get("conditions") or ())
        known["history"] = tuple(raw.get("history") or ())
        return cls(**known)

    def dump(self) -> dict[str, Any]:
        """Fields that say nothing are left out, so that an unchanged status dumps to what is stored."""
        shown = {key: _plain(getattr(self, name)) for name, key in _keys(fields(self)).items()}
        return {name: value for name, value in shown.items() if value not in ("", 0, {}, [])}

    # --- questions ----------------------------------------------------------------------------------------------
    def condition(self, type_: ConditionType) -> Condition | None:
        return find(self.conditions, type_)

    @property
    def is_final(self) -> bool:
        """The run has ended: this verdict never changes within the run."""
        succeeded = self.condition(ConditionType.SUCCEEDED)
        return succeeded is not None and succeeded.status != ConditionStatus.UNKNOWN

    @property
    def attempt_settings(self) -> Attempt:
        """Once they are written down."""
        current = self.current_attempt
        return Attempt(
            number=current["number"],
            reason=current["reason"],
            resume=current["resume"],
            not_older_than_step=current.get("notOlderThanStep", 0),
        )

    @property
    def checkpoint_step(self) -> int:
        """0 before the first checkpoint."""
        return int(self.checkpoint.get("step", 0))


@cache
def _keys(of: tuple[Field[Any], ...]) -> Mapping[str, str]:
    """Name of a field → its key in JSON."""
    return {field_.name: to_camel(field_.name) for field_ in of}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [item.dump() if isinstance(item, Condition) else dict(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
