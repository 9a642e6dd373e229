"""The learning rate of each optimizer step, known before the first one.

Warm-up counts from 1: step k of a warm-up of n steps has k/n of the peak, so that the first step learns something. Runs
that 0.1.0 began count from 0, as transformers does, and end by that.
"""

import math
from dataclasses import dataclass
from typing import Literal

from finetune_contract.jobspec import Training
from finetune_trainer.errors import ConfigurationError

Kind = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class Schedule:
    peak: float
    steps: int
    warmup_steps: int
    kind: Kind
    counts_from: Literal[0, 1] = 1
    """The number of the first step of the warm-up; 0 in runs that 0.1.0 began."""

    @classmethod
    def of(cls, training: Training, steps: int, counts_from: Literal[0, 1] = 1) -> "Schedule":
        """Args:
        steps: optimizer steps of the whole run.
        """
        warmup = min(steps, math.ceil(steps * training.warmup_ratio))
        return cls(training.learning_rate, steps, warmup, training.scheduler, counts_from)

    def factor(self, done: int) -> float:
        """Share of the peak for the step that follows `done` steps."""
        if done < self.warmup_steps:
            return (done + self.counts_from) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        left = float(max(1, self.steps - self.warmup_steps))
        if self.kind == "linear":
            return max(0.0, (self.steps - done) / left)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((done - self.warmup_steps) / left))))

    def rate(self, done: int) -> float:
        """Of the step that follows `done` steps."""
        return self.peak * self.factor(done)

    def check(self) -> None:
        """Raises ConfigurationError when no step could change a weight."""
        if not 0 < self.peak < math.inf:
            message = f"a learning rate of {self.peak:g} trains nothing; usual are 1e-4 for lora, 1e-5 for full"
            raise ConfigurationError(message, field="spec.training.learningRate", reason="ScheduleIsZero")
        if not any(self.rate(done) > 0 for done in range(self.steps)):
            raise ConfigurationError(
                f"all steps of this run ({self.steps}) belong to its warm-up, with learning rate 0; set it to 0, or "
                "train for more steps",
                field="spec.training.warmupRatio",
                reason="ScheduleIsZero",
            )
