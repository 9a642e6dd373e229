"""Object storage: fetches what a job names, puts what a run leaves.

Reads `s3://`, `pvc://` and `file://`; writes `s3://` only. boto3 retries single requests; what it does not do is added
here: an outage is sat out within a budget, and every error becomes one of ours (`blame`).

Uploads carry the checksum that botocore adds by default, which the server checks before it stores an object. A server
that does not know them is served by botocore's own `AWS_REQUEST_CHECKSUM_CALCULATION=when_required`.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import boto3
import tenacity
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from finetune_contract import names
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.s3_errors import FIELD_ENDPOINT, FIELD_SECRET, Blame, code_of, status_of
from finetune_trainer.errors import ConfigurationError, Transient

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ENV_CLAIMS_DIR = "FINETUNE_CLAIMS_DIR"
ENV_BUDGET = "FINETUNE_STORAGE_BUDGET_SECONDS"
"""How long an outage is sat out before the start ends with code 75."""

FIELD_OUTPUT = "spec.output.uri"

_BIG = 64 << 20
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)

Report = Callable[[str], None]
Result = TypeVar("Result")


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class StoredObject:
    uri: str
    path: str
    """Relative to the prefix that was listed."""
    size: int


class Storage:
    """One client for the whole start; safe to use from several threads."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        credentials_dir: Path | None = None,
        secret_name: str | None = None,
        budget_seconds: float | None = None,
        report: Report = _say,
    ) -> None:
        self._blame = Blame(endpoint, secret_name)
        self._budget = float(os.environ.get(ENV_BUDGET, "120")) if budget_seconds is None else budget_seconds
        self._report = report
        keys = _read_keys(credentials_dir, secret_name)
        authority = credentials_dir / "ca.crt" if credentials_dir else None
        try:
            self._client: S3Client = boto3.client(
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

    @classmethod
    def from_job(cls, job: JobFile, report: Report = _say) -> "Storage":
        spec = job.spec.storage
        folder = Path(os.environ.get(names.ENV_CREDENTIALS_DIR, names.CREDENTIALS_DIR))
        return cls(
            endpoint=spec.endpoint,
            region=spec.region,
            credentials_dir=folder if spec.secret_name or folder.is_dir() else None,
            secret_name=spec.secret_name,
            report=report,
        )

    # --- reading -------------------------------------------------------------------------------------------------

    def fetch(self, uri: str, into: Path, *, field: str) -> Path:
        """Returns where the file or folder lies: below `into` for s3://, in its own place for pvc:// and file://."""
        if uri.startswith("s3://"):
            return self._download(uri, into, field)
        path = _local_path(uri, field)
        if not path.exists():
            raise ConfigurationError(
                f"{uri} is not there. Check the path{_claim_hint(uri)}", field=field, reason="SourceNotFound"
            )
        return path

    def _download(self, uri: str, into: Path, field: str) -> Path:
        bucket, key = _split(uri, field)
        into.mkdir(parents=True, exist_ok=True)
        if key and not key.endswith("/") and (size := self.size(uri, field=field)) is not None:
            target = into / key.rsplit("/", 1)[-1]
            self._download_objects(bucket, [(key, target, size)], uri, field)
            return target
        found = self.list(uri, field=field)
        if not found:
            raise ConfigurationError(
                f"{uri} is neither an object nor a prefix of objects. Check the path, or upload it",
                field=field,
                reason="SourceNotFound",
            )
        targets = [(_split(item.uri, field)[1], _inside(into, item.path, field), item.size) for item in found]
        self._download_objects(bucket, targets, uri, field)
        return into

    def _download_objects(self, bucket: str, wanted: list[tuple[str, Path, int]], uri: str, field: str) -> None:
        meter = _Meter(f"downloading {uri}", sum(size for _, _, size in wanted), self._report)
        for key, target, _ in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)

            def transfer(key: str = key, target: Path = target) -> None:
                self._client.download_file(bucket, key, str(target), Callback=meter, Config=_TRANSFER)

            self._persist(transfer, f"s3://{bucket}/{key}", field)

    def download(self, uri: str, target: Path, *, field: str = FIELD_OUTPUT) -> None:
        """One object to exactly this file."""
        bucket, key = _split(uri, field)
        self._download_objects(bucket, [(key, target, self.size(uri, field=field) or 0)], uri, field)

    def get_bytes(self, uri: str, *, field: str = FIELD_OUTPUT) -> bytes | None:
        """None when there is no such object."""
        bucket, key = _split(uri, field)

        def read() -> bytes | None:
            try:
                return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                raise

        return self._persist(read, uri, field)

    def size(self, uri: str, *, field: str = FIELD_OUTPUT) -> int | None:
        """None when there is no such object."""
        bucket, key = _split(uri, field)

        def head() -> int | None:
            try:
                return self._client.head_object(Bucket=bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

        return self._persist(head, uri, field)

    def exists(self, uri: str, *, field: str = FIELD_OUTPUT) -> bool:
        return self.size(uri, field=field) is not None

    def list(self, uri: str, *, field: str = FIELD_OUTPUT) -> tuple[StoredObject, ...]:
        """Every object below the prefix, by key."""
        bucket, key = _split(uri, field)
        prefix = key.rstrip("/") + "/" if key else ""

        def pages() -> tuple[StoredObject, ...]:
            paginator = self._client.get_paginator("list_objects_v2")
            return tuple(
                StoredObject(f"s3://{bucket}/{item['Key']}", item["Key"][len(prefix) :], item["Size"])
                for page in paginator.paginate(Bucket=bucket, Prefix=prefix)
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            )

        return self._persist(pages, uri, field)

    # --- writing -------------------------------------------------------------------------------------------------

    def put_file(self, path: Path, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        bucket, key = _split(uri, field)
        meter = _Meter(f"uploading {uri}", path.stat().st_size, self._report)

        def transfer() -> None:
            self._client.upload_file(str(path), bucket, key, Callback=meter, Config=_TRANSFER)

        self._persist(transfer, uri, field)

    def put_dir(self, folder: Path, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put_file(path, f"{uri.rstrip('/')}/{path.relative_to(folder).as_posix()}", field=field)

    def put_bytes(self, uri: str, data: bytes, *, if_none_match: bool = False, field: str = FIELD_OUTPUT) -> bool:
        """False when the object was there already and `if_none_match` forbade to replace it.

        A retried request can meet its own first try: who must know writes something unique and reads it back."""
        bucket, key = _split(uri, field)

        def put() -> bool:
            try:
                if if_none_match:
                    self._client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                else:
                    self._client.put_object(Bucket=bucket, Key=key, Body=data)
            except ClientError as error:
                if if_none_match and status_of(error) == 412:
                    return False
                raise
            return True

        return self._persist(put, uri, field)

    def delete(self, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        bucket, key = _split(uri, field)
        self._persist(lambda: self._client.delete_object(Bucket=bucket, Key=key), uri, field)

    def delete_prefix(self, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        for item in self.list(uri, field=field):
            self.delete(item.uri, field=field)

    def probe(self, output_uri: str) -> None:
        """Can this run leave its result? Asked first of all, before hours of work.

        The bucket is looked at before anything is written: some servers make a missing bucket on the first write."""
        bucket, _ = _split(output_uri, FIELD_OUTPUT)

        def head() -> None:
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                # The answer to a HEAD has no body that says why; a refused write has.
                if status_of(error) != 403:
                    raise

        self._persist(head, f"s3://{bucket}", FIELD_OUTPUT)
        self.put_bytes(f"{output_uri.rstrip('/')}/.finetune/write-probe", b"written to see that this can be written\n")

    # --- patience --------------------------------------------------------------------------------------------------

    def _persist(self, call: Callable[[], Result], uri: str, field: str) -> Result:
        """Calls until it works or the budget is used up. Only what may pass by itself is tried again."""

        def announce(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._report(f"storage: {error}; next try in {state.upcoming_sleep:.0f} s")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_before_delay(self._budget),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
            before_sleep=announce,
            reraise=True,
        )

        def attempt() -> Result:
            with self._blame.errors(uri, field):
                return call()

        return retrying(attempt)


class _Meter:
    """Says every few seconds how far a big transfer is; called from the transfer's threads."""

    def __init__(self, what: str, total: int, report: Report, every_seconds: float = 5.0) -> None:
        self._what, self._total, self._report, self._every = what, total, report, every_seconds
        self._lock = threading.Lock()
        self._done = 0
        self._start = self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._total < _BIG or now - self._last < self._every:
                return
            self._last = now
            done, rate = self._done, self._done / (now - self._start)
        self._report(
            f"{self._what}: {done / 2**20:,.0f} of {self._total / 2**20:,.0f} MiB ({100 * done / self._total:.0f} %), "
            f"{rate / 2**20:,.1f} MiB/s"
        )


def _read_keys(folder: Path | None, secret_name: str | None) -> dict[str, str]:
    """The Secret's files. Empty when there is none: the default chain then finds the workload's identity."""
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


def _split(uri: str, field: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigurationError(f"{uri} is not of the form s3://bucket/prefix", field=field)
    return bucket, key


def _local_path(uri: str, field: str) -> Path:
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    if scheme == "pvc" and rest:
        claims = Path(os.environ.get(ENV_CLAIMS_DIR, names.CLAIMS_DIR))
        return _inside(claims / rest.partition("/")[0], rest.partition("/")[2], field)
    raise ConfigurationError(f"{uri} is none of s3://bucket/key, pvc://claim/path, file:///path", field=field)


def _inside(folder: Path, relative: str, field: str) -> Path:
    if ".." in Path(relative).parts or relative.startswith("/"):
        raise ConfigurationError(f"{relative!r} leads out of its folder", field=field)
    return folder / relative


def _claim_hint(uri: str) -> str:
    return " below the root of the claim" if uri.startswith("pvc://") else ""
