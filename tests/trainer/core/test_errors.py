"""Errors travel between ranks."""

import pickle

import pytest

from finetune_trainer import errors
from finetune_trainer.artifacts.manifests import Damaged
from finetune_trainer.artifacts.s3_errors import Vanished
from finetune_trainer.errors import TrainerError

ERRORS = [
    errors.ConfigurationError("is wrong", field="spec.x"),
    errors.DataError("is broken", file="rows.jsonl", row=3, field="text"),
    errors.Transient("away", reason="Because"),
    errors.Superseded("a newer start"),
    errors.StoppedAfterSave("saved"),
    errors.StoppedWithoutSave("steps 1 to 2"),
    errors.NoValidCheckpoint("none"),
    Damaged("s3://b/k", ["a is missing"]),
    Vanished("s3://b/k", "spec.x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_it_was_sent(error: TrainerError) -> None:
    got = pickle.loads(pickle.dumps(error))
    assert type(got) is type(error)
    assert (str(got), got.code, vars(got)) == (str(error), error.code, vars(error))
