"""One cluster, one installed operator for all end-to-end tests; a fresh namespace for each."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kit import assets, namespaces
from tests.kit.jobs import Jobs
from tests.kit.platform import Platform
from tests.localcluster.local import LocalCluster


@pytest.fixture(scope="session")
def platform(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    from tests.trainer.models import save_tiny_model

    platform = Platform(cluster)
    # Processes that share the cluster (pytest-xdist) install one after the other; all but the first change nothing.
    with FileLock(Path(tempfile.gettempdir(), f"{cluster.context}-platform.lock")):
        platform.install()
        platform.upload_tiny(save_tiny_model(tmp_path_factory.mktemp("tiny-qwen2")))
        assets.upload_demo(cluster.s3)
    return platform


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
