"""Every cause that is foreseen. What is final and what is tried again follows from its code: the operator's `EXITS`."""

from collections.abc import Sequence

from finetune_trainer.causes.cause import Cause
from finetune_trainer.causes.libraries import RAISED_BY_LIBRARIES
from finetune_trainer.causes.ours import RAISED_BY_US

TABLE: Sequence[Cause] = (*RAISED_BY_LIBRARIES, *RAISED_BY_US)

CONSEQUENCES = frozenset(cause.reason for cause in TABLE if cause.follows)
"""Reasons of ends that another rank's end brought about."""
