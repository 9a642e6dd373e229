"""A real S3 server for the trainer's tests: SeaweedFS, once per session, with an administrator, an ordinary user, and
whatever identities and denials a test asks for."""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dev.kit.ports import ReservedPort
from dev.localcluster import s3 as launcher
from dev.localcluster.waiting import until
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.storage import Storage
from tests.trainer.builders import make_job

BUCKET = "team"
_ADMIN, _USER = ("admin-key", "admin-secret"), ("user-key", "user-secret")


@dataclass(frozen=True)
class S3:
    """The server, and the keys to it."""

    access: launcher.S3
    folder: Path
    prefixes: Iterator[int]
    pid: int
    _denials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return self.access.endpoint

    def credentials(self, access: str = _USER[0], secret: str = _USER[1]) -> Path:
        """A folder as the kubelet mounts a Secret. The user's keys, unless others are given."""
        folder = self.folder / f"keys-{access}-{secret}"
        if not folder.exists():  # never written twice: a rank may be reading it
            folder.mkdir()
            (folder / "AWS_ACCESS_KEY_ID").write_text(access)
            (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret)
        return folder

    @property
    def identities(self) -> Path:
        return self.folder / "identities.json"

    def identify(self, name: str, keys: launcher.Keys, *actions: str) -> None:
        """From now on `name` has these keys and no others, and may do this in the bucket: "Read", "Write", "List"."""
        document = json.loads(self.identities.read_text()) if self.identities.exists() else {"identities": []}
        others = [identity for identity in document["identities"] if identity["name"] != name]
        credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
        allowed = [f"{action}:{BUCKET}" for action in actions]
        identity = {"name": name, "credentials": credentials, "actions": allowed}
        self.identities.write_text(json.dumps({"identities": [*others, identity]}))
        os.kill(self.pid, signal.SIGHUP)
        until(f"the server knows {keys.access_key}", lambda: self._knows(keys), seconds=60, pause=0.05)

    def _knows(self, keys: launcher.Keys) -> bool:
        try:
            self.access.client(keys).head_object(Bucket=BUCKET, Key="none")
        except ClientError as error:
            return not self._rejects(keys, error)
        return True

    def _rejects(self, keys: launcher.Keys, error: ClientError) -> bool:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            return False
        try:
            self.access.client(keys).put_object(Bucket="none", Key="none")
        except ClientError as explained:
            return explained.response["Error"]["Code"] in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
        return False

    @contextmanager
    def denied(self, uri: str, actions: Sequence[str] = ("s3:PutObject",)) -> Iterator[None]:
        """Nobody may do this below `uri`, or at objects that match it."""
        path = uri.removeprefix("s3://")
        resources = [f"arn:aws:s3:::{path}", f"arn:aws:s3:::{path}/*"]
        denial = {"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": resources}
        self._denials.append(denial)
        self._put_policy()
        try:
            yield
        finally:
            self._denials.remove(denial)
            self._put_policy()

    def _put_policy(self) -> None:
        admin = self.client("admin")
        if self._denials:
            document = {"Version": "2012-10-17", "Statement": self._denials}
            admin.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(document))
        else:
            admin.delete_bucket_policy(Bucket=BUCKET)

    def client(self, who: str = "user") -> Any:
        return self.access.client(self.access.admin if who == "admin" else self.access.user)

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
    reserved = {name: ReservedPort() for name in launcher.SERVER_PORTS}  # held until the server has ended
    ports = {name: port.number for name, port in reserved.items()}
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    access = launcher.S3(endpoint, endpoint, BUCKET, user=launcher.Keys(*_USER), admin=launcher.Keys(*_ADMIN))
    data, identities, log = folder / "data", folder / "identities.json", folder / "log"
    data.mkdir()
    identities.write_text(json.dumps(launcher.render_identities(access)))
    command = launcher.server_command(
        address="127.0.0.1", data=data, identities=identities, sockets=folder, ports=ports
    )
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def serves() -> bool:
        assert server.poll() is None, f"weed ended: {log.read_text()[-2000:]}"
        return launcher.is_ready(access)

    try:
        until("weed serves", serves, seconds=300, explain=lambda: log.read_text()[-2000:])
        launcher.ensure_bucket(access)
        yield S3(access, folder, itertools.count(), server.pid)
    finally:
        server.kill()  # nothing in it is worth an orderly end
        server.wait()


@pytest.fixture
def storage(s3: S3) -> Storage:
    return s3.storage()


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
