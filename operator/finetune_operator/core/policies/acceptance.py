"""Accepted: can this spec be worked on at all? What the schema and CEL cannot see; the field is named.

A spec that this *version* of the operator does not understand is nobody's mistake: it waits for another version, and
what runs is followed to its end (`decide.FOLLOWING`). Any other fault is the user's to fix, and final.
"""

import re
from dataclasses import dataclass, replace

from pydantic import ValidationError

from finetune_operator.core.attempts import current_child
from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.outcomes import fail_run
from finetune_operator.core.policies.run import is_new_run_wanted
from finetune_operator.core.render.pod import claims
from finetune_operator.core.snapshot import Snapshot
from finetune_operator.core.spec import Spec

_LOOK_AGAIN_SECONDS = 300.0
_OBJECT_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_UNKNOWN = {"extra_forbidden": "is a field", "literal_error": "has a value"}
"""Errors of pydantic that say: the CRD is newer than this operator. It would have refused anybody's slip at apply."""


def check_spec(draft: Draft) -> Draft:
    fault = _fault(draft.snapshot)
    if fault is None:
        return draft.condition(ConditionType.ACCEPTED, ConditionStatus.TRUE, Reason.ACCEPTED, "The spec is valid.")
    refused = draft.condition(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.INVALID_SPEC, fault)
    return fail_run(refused, Reason.INVALID_SPEC, fault)


# --- another version of the operator -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Hold:
    """Why nothing new is begun from this spec."""

    reason: Reason
    message: str


def find_hold(snapshot: Snapshot) -> Hold | None:
    unknown = _unknown_field(snapshot)
    if unknown is not None:
        waiting = "What runs continues; no run or attempt starts until this is understood"
        return Hold(Reason.UNKNOWN_FIELD, f"{unknown}. {waiting}: upgrade the operator.")
    if not _was_accepted(snapshot) or is_new_run_wanted(snapshot):
        return None
    fault = _fault(snapshot)
    if fault is None:
        return None
    cure = "roll the operator back, or correct the spec, which starts a new run"
    return Hold(Reason.UNREADABLE_SPEC, f"{fault}. Another version of the operator accepted this run: {cure}.")


def hold_spec(draft: Draft) -> Draft:
    """Its generation is not taken up: the operator that understands it decides whether it makes a new run. A run that
    has its verdict is left alone, unless there is something new to begin."""
    hold = _hold(draft)
    held = replace(draft, observes_generation=False)
    if not draft.status.is_final:
        return held.condition(ConditionType.ACCEPTED, ConditionStatus.UNKNOWN, hold.reason, hold.message)
    if not is_new_run_wanted(draft.snapshot):
        return held
    return held.mark_stalled(hold.reason, hold.message).again(_LOOK_AGAIN_SECONDS)


def wait_for_upgrade(draft: Draft) -> Draft:
    if current_child(draft) is not None:
        return draft
    hold = _hold(draft)
    waiting = draft.stall(hold.reason, hold.message).update(phase="Pending")
    return waiting.again(_LOOK_AGAIN_SECONDS).settle()


def _hold(draft: Draft) -> Hold:
    hold = find_hold(draft.snapshot)
    assert hold is not None  # else decide() takes the other chain
    return hold


def _was_accepted(snapshot: Snapshot) -> bool:
    """By an operator that was newer or older: a roll-out must not end the runs that it finds."""
    accepted = snapshot.status.condition(ConditionType.ACCEPTED)
    return accepted is not None and accepted.status != ConditionStatus.FALSE


# --- faults ----------------------------------------------------------------------------------------------------
def _unknown_field(snapshot: Snapshot) -> str | None:
    try:
        _ = snapshot.job.spec
    except ValidationError as error:
        for item in error.errors():
            if item["type"] in _UNKNOWN:
                return f"{_path(item['loc'])} {_UNKNOWN[item['type']]} that this version of the operator does not know"
    return None


def _fault(snapshot: Snapshot) -> str | None:
    try:
        spec = snapshot.job.spec
    except ValidationError as error:
        first = error.errors()[0]
        return f"{_path(first['loc'])}: {first['msg']}"
    return _name_fault(spec)


def _path(location: tuple[str | int, ...]) -> str:
    """`spec.dataset.train[0].source`"""
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _name_fault(spec: Spec) -> str | None:
    """Names of other objects: a pod that mentions an impossible one would be refused by the API server."""
    secret = spec.storage.secret_name
    if secret and not _OBJECT_NAME.match(secret):
        return f"spec.storage.secretName: {secret!r} cannot be the name of a Secret"
    for claim in claims(spec):
        if not _OBJECT_NAME.match(claim):
            return f"spec.model.source, spec.dataset: pvc://{claim}/… cannot be the name of a PersistentVolumeClaim"
    return None
