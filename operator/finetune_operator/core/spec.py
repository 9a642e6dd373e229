"""FineTuneJob.spec as this operator reads it: every field of crds/finetunejobs.yaml.

Blocks that the trainer reads as a whole are the contract's own classes. A field that only the operator reads goes into
a class here (for a block of the contract: into a subclass of it) and reaches the job file only if render/jobfile.py
renders it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from finetune_contract.jobspec import (
    Checkpoint,
    Dataset,
    Evaluation,
    Method,
    Model,
    Output,
    Part,
    Storage,
    Training,
)
from finetune_operator.core.defaults import LATER_DEFAULTS, Defaults, with_defaults

Quantity = Annotated[str, BeforeValidator(str)]
"""Of Kubernetes: `8` or `"500m"`."""


class Resources(Part):
    gpu_class: str
    gpus_per_node: int | None = None
    nodes: int
    processes_per_node: int | None = None
    cpu: Quantity
    memory: str


class Spec(Part):
    model: Model
    dataset: Dataset
    method: Method
    stage: Literal["sft"]
    training: Training
    resources: Resources
    suspend: bool
    retries: int
    output: Output
    checkpoint: Checkpoint
    evaluation: Evaluation
    storage: Storage

    @classmethod
    def parse(cls, stored: Mapping[str, Any], later: Defaults = LATER_DEFAULTS) -> "Spec":
        """Raises pydantic's ValidationError, also for a field that this operator does not know."""
        return cls.model_validate(with_defaults(stored, later))
