"""A tiny model and a few rows for the trainer's core."""

from pathlib import Path

import pytest

from tests.trainer.models import save_tiny_model
from tests.trainer.runs import Bench, write_rows


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(tmp_path, tiny_model, write_rows(tmp_path / "rows.jsonl"))
