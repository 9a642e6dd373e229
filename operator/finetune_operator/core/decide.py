"""From a snapshot to a plan: an ordered chain of policies, each of which may settle the matter."""

from collections.abc import Callable, Sequence

from finetune_operator.core.draft import Draft
from finetune_operator.core.plan import Plan
from finetune_operator.core.policies.acceptance import check_spec, find_hold, hold_spec, wait_for_upgrade
from finetune_operator.core.policies.attempt import set_up_attempt
from finetune_operator.core.policies.creation import (
    create_child,
    number_attempt,
    wait_for_backoff,
    wait_for_earlier_pods,
)
from finetune_operator.core.policies.disappearance import take_loss
from finetune_operator.core.policies.ending import take_end
from finetune_operator.core.policies.final import keep_verdict
from finetune_operator.core.policies.fit import check_fit
from finetune_operator.core.policies.image import wait_for_image
from finetune_operator.core.policies.planning import plan_placement
from finetune_operator.core.policies.recording import record_child
from finetune_operator.core.policies.reporting import take_progress
from finetune_operator.core.policies.retention import remove_strays
from finetune_operator.core.policies.run import start_run
from finetune_operator.core.policies.suspend import stop_for_suspend
from finetune_operator.core.policies.waiting import explain_child
from finetune_operator.core.snapshot import Snapshot

Policy = Callable[[Draft], Draft]

CHAIN: Sequence[Policy] = (
    start_run,  # the first, or a new one: before the verdict of the old one settles everything
    remove_strays,  # also of a run that has ended
    keep_verdict,  # Succeeded is final
    check_spec,  # policies below may parse the spec
    plan_placement,  # the class has to exist before anything is created for it
    take_progress,  # a checkpoint of this attempt counts in its end
    record_child,  # known by uid before anybody deletes it
    take_end,  # before suspend: what has ended by itself is not stopped
    stop_for_suspend,  # before loss: a Job that we deleted is not lost
    take_loss,
    check_fit,  # needs the preparation's result, and no GPU yet
    number_attempt,  # what follows is about the attempt of this number
    set_up_attempt,  # written down with its number
    wait_for_image,
    wait_for_backoff,
    wait_for_earlier_pods,
    create_child,
    explain_child,  # the child is at work, or waits for something
)

FOLLOWING: Sequence[Policy] = (
    hold_spec,  # in the place of start_run: an old run is not stopped for a spec that cannot be started
    remove_strays,
    keep_verdict,
    take_progress,  # from here on as in CHAIN, without what reads the spec
    record_child,
    take_end,
    stop_for_suspend,
    take_loss,
    wait_for_upgrade,  # no child is at work, and none is created
    explain_child,
)
"""For a spec that this version of the operator does not understand: what runs is followed to its end with the spec that
it was started with, and nothing new begins."""


def decide(snapshot: Snapshot) -> Plan:
    """Total: every snapshot has a plan. An object that is being deleted needs nothing: its children go with it."""
    if snapshot.job.is_being_deleted:
        return Plan(status=snapshot.job.raw_status)
    draft = Draft.of(snapshot)
    for policy in CHAIN if find_hold(snapshot) is None else FOLLOWING:
        draft = policy(draft)
        if draft.is_settled:
            break
    return draft.plan()
