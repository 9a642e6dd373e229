"""Attempts: which child is the current one, how an attempt becomes history, and when the next may start."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from finetune_operator.core.classify import End
from finetune_operator.core.conditions import Reason, compose, truncated
from finetune_operator.core.draft import Draft
from finetune_operator.core.objects import ChildJob
from finetune_operator.core.outcomes import fail_run
from finetune_operator.core.plan import Event
from finetune_operator.core.stages import EndKind
from finetune_operator.core.status import MAX_HISTORY
from finetune_operator.core.timestamps import format_time

MAX_STOPS = 3
"""Ends in a row that do not count and brought no newer checkpoint: the last of them counts."""
_MAX_HISTORY_MESSAGE = 300
_JITTER = 0.25


# --- the current one -------------------------------------------------------------------------------------------
def current_name(draft: Draft) -> str:
    return draft.stage.child_name(draft.snapshot.job.name, draft.status.run, draft.number)


def current_child(draft: Draft) -> ChildJob | None:
    """The Job of the current attempt, when it is there and ours: made for this object from this configuration."""
    job = draft.snapshot.job_named(current_name(draft))
    return job if job is not None and is_ours(draft, job) else None


def is_ours(draft: Draft, job: ChildJob) -> bool:
    is_recorded = draft.status.child.get("uid") == job.uid
    # The stored hash as well: it may be one of 0.1.0 that is being written anew.
    hashes = (draft.status.run_hash, draft.snapshot.status.run_hash)
    return draft.snapshot.owns(job) and (is_recorded or job.config_hash in hashes)


def is_written_down(draft: Draft) -> bool:
    """The current attempt stands in the stored status: its Job may be created."""
    stored, status = draft.snapshot.status, draft.status
    is_same_run = (stored.run, stored.run_hash) == (status.run, status.run_hash)
    return is_same_run and draft.snapshot.stage == draft.stage and draft.stage.number_in(stored) == draft.number


# --- the next one ----------------------------------------------------------------------------------------------
def advance(draft: Draft) -> Draft:
    """On to the next attempt of the same stage. Its Job follows once the number is written down."""
    return draft.numbered(draft.number + 1).update(child={})


@dataclass(frozen=True)
class _Account:
    """Counters after an end."""

    is_counted: bool
    failures: int
    stops: int


def retry(draft: Draft, end: End) -> Draft:
    """After an end that is neither success nor final."""
    account = _account(draft, end)
    noted = note_end(draft, end, account.is_counted).update(failures=account.failures, stops=account.stops)
    if account.failures > draft.snapshot.job.retries:
        return fail_run(noted, Reason.RETRIES_EXHAUSTED, _exhausted(draft, end, account))
    delayed = _with_backoff(noted, account)
    number = draft.number
    what = f"Attempt {number} of {draft.stage.work} ended ({end.reason}):"
    kind = "AttemptFailed" if account.is_counted else "AttemptStopped"
    following = compose(what, end.message, f"Attempt {number + 1} follows.")
    event = Event("Warning", kind, compose(what, end.message))
    return advance(delayed).summary(Reason.STARTING, following, "Pending").event(event)


def _account(draft: Draft, end: End) -> _Account:
    status = draft.status
    if end.kind is EndKind.COUNTED:
        return _Account(True, status.failures + 1, 0)
    stops = 1 if _has_newer_checkpoint(draft) else status.stops + 1
    if stops >= MAX_STOPS and not _has_newer_checkpoint(draft):
        return _Account(True, status.failures + 1, 0)
    return _Account(False, status.failures, 0 if _has_newer_checkpoint(draft) else stops)


def _has_newer_checkpoint(draft: Draft) -> bool:
    return draft.status.checkpoint_step > _last_checkpoint_step(draft)


def _last_checkpoint_step(draft: Draft) -> int:
    """At the previous end of an attempt of this run; 0 when this is the first."""
    run = draft.status.run
    steps = (entry.get("checkpointStep", 0) for entry in draft.status.history if entry.get("run") == run)
    return int(next(steps, 0))


def _with_backoff(draft: Draft, account: _Account) -> Draft:
    if not account.is_counted:
        return draft
    due = draft.snapshot.now + timedelta(seconds=backoff_seconds(draft, account.failures))
    return draft.update(next_attempt_time=format_time(due))


def backoff_seconds(draft: Draft, failures: int) -> float:
    """Doubles with each failure, ± a quarter. The jitter comes from the identity: it spreads the jobs that one outage
    hit, and is the same for whoever computes it."""
    options = draft.snapshot.options
    wait = min(options.backoff_base_seconds * 2.0 ** (failures - 1), options.backoff_max_seconds)
    seed = f"{draft.snapshot.job.uid}/{draft.status.run}/{failures}".encode()
    share = int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") / 2**32
    return wait * (1 - _JITTER + 2 * _JITTER * share)


def _exhausted(draft: Draft, end: End, account: _Account) -> str:
    retries = draft.snapshot.job.retries
    failures = "1 failure" if account.failures == 1 else f"{account.failures} failures"
    return compose(
        f"{failures} with spec.retries {retries}; the last, in attempt {draft.number} of "
        f"{draft.stage.work}: {end.reason}:",
        end.message,
        "When the cause is fixed, start a new run with kubectl annotate ftj "
        f'{draft.snapshot.job.name} --overwrite finetune.dev/restartedAt="$(date -Is)".',
    )


def await_image(draft: Draft, end: End) -> Draft:
    """The trainer image does not know the job file: nobody's mistake. The next attempt waits for another image."""
    noted = note_end(draft, end, is_counted=False)
    message = compose(f"Attempt {draft.number} of {draft.stage.work} ended ({end.reason}):", end.message)
    return advance(noted).event(Event("Warning", "AttemptStopped", message))


# --- history ---------------------------------------------------------------------------------------------------
def note_end(draft: Draft, end: End, is_counted: bool) -> Draft:
    """Newest first, bounded."""
    status = draft.status
    child = current_child(draft)
    entry: dict[str, Any] = {
        "run": status.run,
        "attempt": draft.number,
        "role": draft.stage.role,
        "reason": str(end.reason),
        "message": truncated(end.message, _MAX_HISTORY_MESSAGE),
        "counted": is_counted,
        "checkpointStep": status.checkpoint_step,
        "time": format_time(draft.snapshot.now),
    }
    if child is not None and child.image:
        entry["image"] = child.image
    return draft.update(history=(entry, *status.history)[:MAX_HISTORY])
