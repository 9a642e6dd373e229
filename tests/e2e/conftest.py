"""One cluster, one installed operator for all end-to-end tests; a fresh namespace for each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from dev.kit import assets, namespaces
from dev.kit.jobs import Jobs
from dev.kit.platform import Platform
from dev.localcluster.local import LocalCluster


@pytest.fixture(scope="session")
def platform(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    platform = Platform(cluster)
    # The workers of pytest-xdist have folders of their own side by side, and one cluster.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    installed = shared / "platform-installed"
    with FileLock(shared / "platform.lock"):
        if not installed.exists():
            _install(platform, tmp_path_factory.mktemp("tiny-qwen2"))
            installed.touch()
    return platform


def _install(platform: Platform, folder: Path) -> None:
    from tests.trainer.models import save_tiny_model

    platform.install()
    platform.upload_tiny(save_tiny_model(folder))
    assets.upload_demo(platform.cluster.s3)


@pytest.fixture
def jobs(platform: Platform) -> Iterator[Jobs]:
    """FineTuneJobs in a namespace of their own that enforces `restricted`; gone afterwards."""
    name = f"e2e-{secrets.token_hex(3)}"
    namespaces.create(platform.kubectl, name, platform.cluster.s3)
    wrong = platform.cluster.s3.secret(name, "wrong-keys")
    wrong["stringData"] = {"AWS_ACCESS_KEY_ID": "NOBODY", "AWS_SECRET_ACCESS_KEY": "wrong"}
    platform.kubectl.apply(wrong)
    yield Jobs(platform.kubectl, name)
    platform.kubectl("delete", "namespace", name, "--wait=false")
