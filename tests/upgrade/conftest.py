"""The released version as files, and the S3 server that they are put back into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.conftest import api, kubeconfig
from tests.trainer.conftest import s3
from tests.upgrade import released

__all__ = ["api", "kubeconfig", "s3"]


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator of the release, as files."""
    return released.unpack(tmp_path_factory.mktemp("release"), "operator", "trainer_image/finetune_contract", "crds")
