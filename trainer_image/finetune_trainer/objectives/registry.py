"""The objectives by the name that `spec.stage` gives them."""

from collections.abc import Mapping

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.objective import Objective
from finetune_trainer.objectives.sft.objective import SupervisedFineTuning

OBJECTIVES: Mapping[str, Objective] = {"sft": SupervisedFineTuning()}


def objective_for(stage: str, objectives: Mapping[str, Objective] = OBJECTIVES) -> Objective:
    """Raises ConfigurationError for a stage that this trainer does not have."""
    if stage not in objectives:
        known = ", ".join(objectives)
        message = f"this trainer has no objective {stage!r}; use one of {known}, or a trainer image that has it"
        raise ConfigurationError(message, field="spec.stage", reason="UnknownStage")
    return objectives[stage]
