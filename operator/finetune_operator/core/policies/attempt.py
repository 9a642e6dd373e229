"""With which settings does the current attempt start? Decided once for each number and written into status with it; the
trainer reads them in the block `attempt` of its job file.

This is the place for whatever may differ between the attempts of one run. Nothing is decided on what status says of it:
a CRD that is older than this operator drops the block.
"""

from typing import Any

from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import Reason
from finetune_operator.core.draft import Draft


def set_up_attempt(draft: Draft) -> Draft:
    if _is_set_up(draft) or current_child(draft) is not None:  # the latter: by an operator that had no settings
        return draft
    return draft.update(current_attempt=_settings(draft))


def _is_set_up(draft: Draft) -> bool:
    current = draft.status.current_attempt
    return (current.get("role"), current.get("number")) == (draft.stage.role, draft.number)


def _settings(draft: Draft) -> dict[str, Any]:
    settings: dict[str, Any] = {"role": draft.stage.role, "number": draft.number, "reason": _reason(draft)}
    if not draft.stage.has_checkpoints:
        return settings | {"resume": "none"}
    step = draft.status.checkpoint_step
    return settings | {"resume": "newest"} | ({"notOlderThanStep": step} if step else {})


def _reason(draft: Draft) -> str:
    """Of the previous end. One that is not in the history came from a suspension."""
    if draft.number == 1:
        return Reason.FIRST_ATTEMPT
    of_stage = (draft.status.run, draft.stage.role)
    last = next((end for end in draft.status.history if (end.get("run"), end.get("role")) == of_stage), {})
    return str(last["reason"]) if last.get("attempt") == draft.number - 1 else Reason.SUSPENDED
