"""The plan while the policies work on it. Each policy takes a draft and returns it changed, or settled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_operator.core.conditions import (
    Condition,
    ConditionStatus,
    ConditionType,
    in_order,
    with_condition,
    without_condition,
)
from finetune_operator.core.objects import Pod
from finetune_operator.core.plan import Action, Event, Plan, Trust
from finetune_operator.core.snapshot import Snapshot
from finetune_operator.core.stages import Stage, current_stage
from finetune_operator.core.status import Status


@dataclass(frozen=True)
class Draft:
    snapshot: Snapshot
    status: Status
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    needs: Trust = Trust.CACHE
    explain: str | None = None
    observes_generation: bool = True
    """False while the old run is still being stopped: the new generation has not been taken up yet."""
    is_stalled: bool = False
    is_settled: bool = False
    """The policies that follow have nothing to say."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Draft":
        return cls(snapshot, snapshot.status)

    # --- the attempt at hand ------------------------------------------------------------------------------------
    @property
    def stage(self) -> Stage:
        """What the run is at."""
        return current_stage(self.snapshot.stages, self.status)

    @property
    def number(self) -> int:
        """Of the current attempt of this stage; 0 before the first."""
        return self.stage.number_in(self.status)

    @property
    def pods(self) -> tuple[Pod, ...]:
        """Of the current attempt."""
        return self.snapshot.pods_of(self.stage, self.status.run, self.number)

    # --- what a policy may do -----------------------------------------------------------------------------------
    def update(self, **changes: Any) -> "Draft":
        """Of the status."""
        return replace(self, status=replace(self.status, **changes))

    def condition(self, type_: ConditionType, status: ConditionStatus, reason: str, message: str) -> "Draft":
        new = Condition(type_, status, reason, message)
        return self.update(conditions=with_condition(self.status.conditions, new, self.snapshot.now))

    def summary(self, reason: str, message: str, phase: str | None = None) -> "Draft":
        """Succeeded=Unknown with the reason for it."""
        draft = self.condition(ConditionType.SUCCEEDED, ConditionStatus.UNKNOWN, reason, message)
        return draft if phase is None else draft.update(phase=phase)

    def stall(self, reason: str, message: str) -> "Draft":
        """Only a person can help: Stalled=True, in addition to the summary."""
        return self.mark_stalled(reason, message).summary(reason, message)

    def mark_stalled(self, reason: str, message: str) -> "Draft":
        """Without a word about the summary."""
        stalled = self.condition(ConditionType.STALLED, ConditionStatus.TRUE, reason, message)
        return replace(stalled, is_stalled=True)

    def numbered(self, number: int) -> "Draft":
        """The current stage is at the attempt of this number."""
        return self.update(**{self.stage.number: number})

    def act(self, actions: Sequence[Action], needs: Trust) -> "Draft":
        return replace(self, actions=(*self.actions, *actions)).trusting(needs) if actions else self

    def event(self, event: Event) -> "Draft":
        return replace(self, events=(*self.events, event))

    def again(self, seconds: float) -> "Draft":
        """Look again after so many seconds, or sooner if another policy says so."""
        sooner = seconds if self.requeue_after is None else min(seconds, self.requeue_after)
        return replace(self, requeue_after=sooner)

    def trusting(self, needs: Trust) -> "Draft":
        return replace(self, needs=max(needs, self.needs))

    def settle(self) -> "Draft":
        return replace(self, is_settled=True)

    # --- the result ---------------------------------------------------------------------------------------------
    def plan(self) -> Plan:
        return Plan(
            status=self._stamped().dump(),
            actions=self.actions,
            events=self.events,
            requeue_after=self.requeue_after,
            needs=self.needs,
            explain=self.explain,
        )

    def _stamped(self) -> Status:
        """With observedGeneration, and without a Stalled that is over."""
        conditions = self.status.conditions
        if not self.is_stalled:
            conditions = without_condition(conditions, ConditionType.STALLED)
        taken_up = self.snapshot.job.generation if self.observes_generation else self.status.observed_generation
        stamped = tuple(replace(condition, observed_generation=taken_up) for condition in in_order(conditions))
        return replace(self.status, observed_generation=taken_up, conditions=stamped)
