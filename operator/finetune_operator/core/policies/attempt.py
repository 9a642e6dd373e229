"""With which settings does the current attempt start? Decided once for each number and written into status with it; the
trainer reads them in the block `attempt` of its job file.

This is the place for whatever may differ between the attempts of one run. Nothing is decided on what status says of it:
a CRD that is older than this operator drops the block.
"""

from typing import Any

from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import Role
from finetune_operator.core.status import Status


def set_up_attempt(draft: Draft) -> Draft:
    status = draft.status
    if _is_set_up(status) or current_child(draft) is not None:  # the latter: by an operator that had no settings
        return draft
    return draft.update(current_attempt=_settings(status))


def _is_set_up(status: Status) -> bool:
    current = status.current_attempt
    return (current.get("role"), current.get("number")) == (status.role, status.number)


def _settings(status: Status) -> dict[str, Any]:
    settings: dict[str, Any] = {"role": str(status.role), "number": status.number, "reason": _reason(status)}
    if status.role is not Role.TRAIN:
        return settings | {"resume": "none"}
    oldest = {"notOlderThanStep": status.checkpoint_step} if status.checkpoint_step else {}
    return settings | {"resume": "newest"} | oldest


def _reason(status: Status) -> str:
    """Of the end before. One that is not in the history came from a suspension."""
    if status.number == 1:
        return Reason.FIRST_ATTEMPT
    ends = (end for end in status.history if (end.get("run"), end.get("role")) == (status.run, status.role))
    last = next(ends, {})
    return str(last["reason"]) if last.get("attempt") == status.number - 1 else Reason.SUSPENDED
