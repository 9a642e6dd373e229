"""Public bug reports as cases: see `trying`."""

from typing import Any

import pytest

from tests.trainer.cases.trying import Bench


@pytest.fixture(scope="session")
def bench(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Shadows the bench of tests/trainer/core: this one writes to S3."""
    return Bench(runner, tmp_path_factory.mktemp("models"))
