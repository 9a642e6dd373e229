"""Accepted: can this spec be worked on at all? What the schema and CEL cannot see; the field is named."""

import re

from pydantic import ValidationError

from finetune_contract.jobspec import Spec
from finetune_operator.core.conditions import ConditionStatus, ConditionType, Reason
from finetune_operator.core.draft import Draft
from finetune_operator.core.outcomes import fail_run
from finetune_operator.core.render.pod import claims

_CURE = "roll the operator back, or correct the spec, which starts a new run."
_UNREADABLE_SECONDS = 300.0
_OBJECT_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


def check_spec(draft: Draft) -> Draft:
    fault = _fault(draft)
    if fault is None:
        return draft.condition(ConditionType.ACCEPTED, ConditionStatus.TRUE, Reason.ACCEPTED, "The spec is valid.")
    if _was_accepted(draft):
        message = f"{fault}. Another version of the operator accepted this run, which is left as it is: {_CURE}"
        return draft.stall(Reason.UNREADABLE_SPEC, message).again(_UNREADABLE_SECONDS).settle()
    refused = draft.condition(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.INVALID_SPEC, fault)
    return fail_run(refused, Reason.INVALID_SPEC, fault)


def _was_accepted(draft: Draft) -> bool:
    """By an operator that was newer or older: a roll-out must not end the runs that it finds."""
    accepted = draft.status.condition(ConditionType.ACCEPTED)
    return accepted is not None and accepted.status == ConditionStatus.TRUE


def _fault(draft: Draft) -> str | None:
    try:
        spec = draft.snapshot.job.spec
    except ValidationError as error:
        first = error.errors()[0]
        return f"spec.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return _name_fault(spec)


def _name_fault(spec: Spec) -> str | None:
    """Names of other objects: a pod that mentions an impossible one would be refused by the API server."""
    secret = spec.storage.secret_name
    if secret and not _OBJECT_NAME.match(secret):
        return f"spec.storage.secretName: {secret!r} cannot be the name of a Secret"
    for claim in claims(spec):
        if not _OBJECT_NAME.match(claim):
            return f"spec.model.source, spec.dataset: pvc://{claim}/… cannot be the name of a PersistentVolumeClaim"
    return None
