"""How a run ends: the one place that makes Succeeded True or False."""

from finetune_operator.core.conditions import ConditionStatus, ConditionType
from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import Event
from finetune_operator.core.timestamps import format_time


def fail_run(draft: Draft, reason: str, message: str) -> Draft:
    ended = draft.condition(ConditionType.SUCCEEDED, ConditionStatus.FALSE, reason, message)
    return _close(ended, "Failed").event(Event("Warning", "Failed", f"{reason}: {message}")).settle()


def succeed_run(draft: Draft, reason: str, message: str) -> Draft:
    ended = draft.condition(ConditionType.SUCCEEDED, ConditionStatus.TRUE, reason, message)
    return _close(ended, "Succeeded").event(Event("Normal", "Succeeded", message)).settle()


def _close(draft: Draft, phase: str) -> Draft:
    now = format_time(draft.snapshot.now)
    return draft.update(phase=phase, completion_time=now, next_attempt_time="", child={})
