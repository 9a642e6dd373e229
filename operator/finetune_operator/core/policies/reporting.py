"""How far is it? status.progress and status.checkpoint, from what was pulled and from termination records.

Written on change, and pulled records at most once an interval; a final record always, so that nothing is lost when
the operator was down meanwhile.
"""

from datetime import timedelta
from typing import Any

from finetune_contract.progress import ProgressRecord
from finetune_operator.core.attempts import current_child
from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import Event
from finetune_operator.core.timestamps import format_time, parse_time


def take_progress(draft: Draft) -> Draft:
    final = _final_record(draft) if draft.stage.has_checkpoints else None
    if final is not None:
        return note_record(draft, final)
    pulled = current_progress(draft)
    if pulled is None:
        return draft
    wait = _seconds_until_due(draft)
    if wait > 0:
        return draft.again(wait)
    return note_record(draft, pulled)


def note_record(draft: Draft, record: ProgressRecord) -> Draft:
    now = format_time(draft.snapshot.now)
    shown = progress_block(record)
    before = {name: value for name, value in draft.status.progress.items() if name != "updatedAt"}
    if shown != before:
        draft = draft.update(progress={**shown, "updatedAt": now})
    lost = _newly_lost_steps(draft, record)
    if lost:
        return _note_lost_steps(draft, record, lost)
    step = record.checkpoint_step
    if step is not None and step > draft.status.checkpoint_step:
        draft = draft.update(checkpoint={"step": step, "uri": record.checkpoint_uri or "", "time": now})
    return draft


def _newly_lost_steps(draft: Draft, record: ProgressRecord) -> int:
    """Reported once an attempt; 0 when its settings are not in status (an older CRD drops them)."""
    current = draft.status.current_attempt
    lost, newest = record.lost_steps or 0, current.get("notOlderThanStep", 0)
    is_news = current.get("number") == record.attempt and current.get("lostSteps") != lost
    return lost if is_news and lost <= newest else 0


def _note_lost_steps(draft: Draft, record: ProgressRecord, lost: int) -> Draft:
    """The newest checkpoint that was known of is not there any more: the one that was resumed from takes its place."""
    newest = draft.status.attempt_settings.not_older_than_step
    kept = newest - lost
    where = f"step {kept}" if kept else "step 0, there is no other checkpoint"
    message = (
        f"Attempt {record.attempt} resumed from {where}. Steps {kept + 1} to {newest} were lost, because their "
        "checkpoint is gone or damaged; they are done once more."
    )
    step = record.checkpoint_step
    checkpoint = {"step": step, "uri": record.checkpoint_uri or "", "time": format_time(draft.snapshot.now)}
    current = {**draft.status.current_attempt, "lostSteps": lost}
    noted = draft.update(current_attempt=current, checkpoint=checkpoint if step else {})
    return noted.event(Event("Warning", "StepsLost", message))


def progress_block(record: ProgressRecord) -> dict[str, Any]:
    """Measured floats as strings of fixed precision, so that a diff is stable."""
    block = _rows_done(record) if record.activity == "preparing" else _steps_done(record)
    if record.eta_seconds:  # 0 at the end, when evaluation and upload are still to come
        block |= {"etaSeconds": record.eta_seconds, "eta": _duration(record.eta_seconds)}
    return {name: value for name, value in block.items() if value != ""}


def _rows_done(record: ProgressRecord) -> dict[str, Any]:
    return {
        "stage": record.activity,
        "display": f"{record.rows:,} rows" if record.rows else "",
        "rows": record.rows or 0,
        "rowsPerSecond": "" if record.rows_per_second is None else f"{record.rows_per_second:.1f}",
    }


def _steps_done(record: ProgressRecord) -> dict[str, Any]:
    percent = 100 * record.step // record.total_steps if record.total_steps else 0
    return {
        "stage": record.activity,
        "display": f"{record.step}/{record.total_steps} ({percent}%)" if record.total_steps else "",
        "step": record.step,
        "totalSteps": record.total_steps,
        "percent": percent,
        "epoch": f"{record.epoch:.2f}",
        "loss": "" if record.loss is None else f"{record.loss:.4f}",
        "tokensPerSecond": "" if record.tokens_per_second is None else f"{record.tokens_per_second:.1f}",
    }


def _duration(seconds: int) -> str:
    """As kubectl shows ages: the two largest units."""
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _final_record(draft: Draft) -> ProgressRecord | None:
    """Of the rank that got furthest, among the pods of this attempt that have ended. While the Job has not ended as
    well, it waits: the end is about to be written anyway."""
    job = current_child(draft)
    if job is not None and not job.is_finished and not job.is_being_deleted:
        return None
    found = [pod.record.progress for pod in draft.pods if pod.record is not None and pod.record.progress is not None]
    return max(found, key=lambda record: (record.step, record.checkpoint_step or 0), default=None)


def current_progress(draft: Draft) -> ProgressRecord | None:
    """What this attempt of this stage said last (rank 0, in training); None when it said nothing yet."""
    record = draft.snapshot.progress
    return record if record is not None and _is_current(draft, record) else None


def _is_current(draft: Draft, record: ProgressRecord) -> bool:
    """Preparation and training count their attempts for themselves: the activity says whose record it is."""
    is_of_stage = (record.activity == "preparing") != draft.stage.has_checkpoints
    return is_of_stage and (record.run, record.attempt) == (draft.status.run, draft.number)


def _seconds_until_due(draft: Draft) -> float:
    updated = parse_time(draft.status.progress.get("updatedAt"))
    if updated is None:
        return 0.0
    due = updated + timedelta(seconds=draft.snapshot.options.progress_interval_seconds)
    return (due - draft.snapshot.now).total_seconds()
