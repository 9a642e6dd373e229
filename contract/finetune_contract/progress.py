"""The progress record: served by rank 0 at `/progress`, and part of the termination record."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Activity = Literal[
    "starting", "preparing", "downloading", "loading", "evaluating", "training", "saving", "publishing", "done"
]
"""What a start is doing (`preparing` is said by a preparation alone); `spec.stage`, the objective, is another thing."""


class ProgressRecord(BaseModel):
    """Readers ignore unknown keys: a newer trainer may report more than an older operator knows."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    run: int
    attempt: int
    activity: Activity = Field(validation_alias="stage", serialization_alias="stage")
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    tokens_per_second: float | None = None
    tokens_total: int = 0
    eta_seconds: int | None = None
    rows: int | None = None
    """Rows that a preparation has done."""
    rows_per_second: float | None = None
    checkpoint_step: int | None = None
    """Step of the newest checkpoint whose manifest is in S3."""
    checkpoint_uri: str | None = None
    lost_steps: int | None = None
    """Steps that are done once more: this start resumed from a checkpoint older than `Attempt.not_older_than_step`,
    because the newer one is gone or damaged."""
    unsaved_steps: int | None = None
    """Steps since the newest verified checkpoint, of a start that ended before they were saved: the next attempt does
    them again."""
    waiting: str | None = None
    """What the start waits for with work to do, in a sentence: the storage, say. None while it works."""
