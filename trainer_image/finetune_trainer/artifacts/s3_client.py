"""Makes the S3 client, with keys from the mounted Secret or from boto3's default chain.

Keys expire and are rotated while a training runs, and the kubelet replaces the files of a mounted Secret within a
minute or two: `Access` reads them again. What boto3 finds by itself it also renews by itself.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from finetune_trainer.artifacts.s3_errors import FIELD_ENDPOINT, FIELD_SECRET
from finetune_trainer.errors import ConfigurationError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class Access:
    """The client of one start, with the keys that the Secret has now. Safe to use from several threads."""

    def __init__(
        self, *, endpoint: str | None, region: str, credentials_dir: Path | None, secret_name: str | None
    ) -> None:
        self._endpoint, self._region = endpoint, region
        self._folder, self._secret = credentials_dir, secret_name
        self._lock = threading.Lock()
        self._keys = read_keys(credentials_dir, secret_name)
        self.client = self._connect()
        self.has_worked = False
        """With these keys: a refusal from then on means that they have expired or were replaced."""

    def renew(self) -> bool:
        """Whether the Secret has other keys than this client: they are used from now on."""
        with self._lock:
            try:
                keys = read_keys(self._folder, self._secret)
            except (OSError, ConfigurationError):
                return False  # the files are being replaced
            if keys == self._keys:
                return False
            self._keys, self.has_worked = keys, False
            self.client = self._connect()
            return True

    def _connect(self) -> "S3Client":
        return make_client(endpoint=self._endpoint, region=self._region, keys=self._keys, folder=self._folder)


def make_client(*, endpoint: str | None, region: str, keys: Mapping[str, str], folder: Path | None) -> "S3Client":
    """Raises ConfigurationError for an endpoint that is not a URL.

    Args:
        folder: may hold the certificate of the server's authority.
    """
    authority = folder / "ca.crt" if folder else None
    try:
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            aws_access_key_id=keys.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            verify=str(authority) if authority and authority.is_file() else None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=16,
                s3={"addressing_style": "path" if endpoint else "auto"},
            ),
        )
    except ValueError as error:
        raise ConfigurationError(f"{error}. Write it as https://host:port", field=FIELD_ENDPOINT) from error
    return client


def read_keys(folder: Path | None, secret_name: str | None) -> dict[str, str]:
    """The Secret's files. Empty when there is none: the default chain then finds the workload's identity.

    Raises:
        ConfigurationError: the Secret lacks a key.
    """
    if folder is None:
        return {}
    keys = {
        name: (folder / name).read_text().strip()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        if (folder / name).is_file()
    }
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not keys.get(name)]
    if missing and (secret_name or len(missing) == 1):
        raise ConfigurationError(
            f"Secret {secret_name!r} has no key {' and no key '.join(missing)}. Add it",
            field=FIELD_SECRET,
            reason="StorageKeysMissing",
        )
    return keys
