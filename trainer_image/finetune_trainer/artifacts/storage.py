"""Object storage: fetches what a job names, stores what a run produces.

Reads `s3://`, `pvc://` and `file://`; writes `s3://` only. boto3 retries single requests; what it does not do is added
here: an outage is waited out within a budget of silence, keys that were rotated are read again, and every error becomes
one of ours (s3_errors.py).

Uploads carry the checksum that botocore adds by default, which the server checks before it stores an object. For a
server that does not support it there is botocore's own `AWS_REQUEST_CHECKSUM_CALCULATION=when_required`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tenacity
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

from finetune_contract import names
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.s3_client import Access
from finetune_trainer.artifacts.s3_errors import (
    ACCESS_DENIED,
    KEYS_REFUSED,
    S3ErrorMapper,
    Vanished,
    code_of,
    status_of,
)
from finetune_trainer.artifacts.silence import Silence
from finetune_trainer.artifacts.transfer_meter import TransferMeter
from finetune_trainer.artifacts.uris import bucket_and_key, claim_hint, inside, local_path
from finetune_trainer.errors import ConfigurationError, Transient
from finetune_trainer.rank.reporting import Report, to_stdout

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ENV_BUDGET = "FINETUNE_STORAGE_BUDGET_SECONDS"
"""How long an outage is waited out before the start ends with code 75. A transfer that moves bytes is no outage."""

FIELD_OUTPUT = "spec.output.uri"

_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)

Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredObject:
    uri: str
    path: str
    """Relative to the prefix that was listed."""
    size: int
    etag: str = ""
    """The store's own mark of the content: it changes when the content does."""


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
        report: Report = to_stdout,
    ) -> None:
        self._errors = S3ErrorMapper(endpoint, secret_name)
        self._budget = float(os.environ.get(ENV_BUDGET, "120")) if budget_seconds is None else budget_seconds
        self._report = report
        self._access = Access(
            endpoint=endpoint, region=region, credentials_dir=credentials_dir, secret_name=secret_name
        )
        self._warned: set[str] = set()

    @property
    def _client(self) -> "S3Client":
        return self._access.client

    @classmethod
    def from_job(cls, job: JobFile, report: Report = to_stdout) -> "Storage":
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
        """Returns the path of the file or folder: below `into` for s3://, in place for pvc:// and file://."""
        if uri.startswith("s3://"):
            return self._download(uri, into, field)
        path = local_path(uri, field)
        if not path.exists():
            raise ConfigurationError(
                f"{uri} does not exist. Check the path{claim_hint(uri)}", field=field, reason="SourceNotFound"
            )
        return path

    def _download(self, uri: str, into: Path, field: str) -> Path:
        bucket, key = bucket_and_key(uri, field)
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
        targets = [(bucket_and_key(item.uri, field)[1], inside(into, item.path, field), item.size) for item in found]
        self._download_objects(bucket, targets, uri, field)
        return into

    def _download_objects(self, bucket: str, wanted: list[tuple[str, Path, int]], uri: str, field: str) -> None:
        meter = TransferMeter(f"downloading {uri}", sum(size for _, _, size in wanted), self._report)
        for key, target, _ in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)

            uri = f"s3://{bucket}/{key}"

            def transfer(key: str = key, target: Path = target, uri: str = uri) -> None:
                with _as_vanished(uri, field):
                    self._client.download_file(bucket, key, str(target), Callback=meter, Config=_TRANSFER)

            self._with_retries(transfer, uri, field, meter)

    def download(self, uri: str, target: Path, *, field: str = FIELD_OUTPUT) -> None:
        """One object to exactly this file.

        Raises:
            Vanished: it is not there, or was replaced meanwhile.
        """
        bucket, key = bucket_and_key(uri, field)
        self._download_objects(bucket, [(key, target, self.size(uri, field=field) or 0)], uri, field)

    def get_bytes(self, uri: str, *, field: str = FIELD_OUTPUT) -> bytes | None:
        """None when there is no such object."""
        bucket, key = bucket_and_key(uri, field)

        def read() -> bytes | None:
            try:
                return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                raise

        return self._with_retries(read, uri, field)

    def read_range(self, uri: str, start: int, length: int, *, field: str = FIELD_OUTPUT) -> bytes:
        """Part of an object that is there; less where it ends."""
        bucket, key = bucket_and_key(uri, field)

        def read() -> bytes:
            try:
                answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")
            except ClientError as error:
                if status_of(error) == 416:  # the object ends before `start`
                    return b""
                raise
            if "ContentRange" not in answer:  # a server that does not know ranges sends everything
                answer["Body"].read(start)
            return answer["Body"].read(length)

        return self._with_retries(read, uri, field) if length > 0 else b""

    def describe(self, uri: str, *, field: str = FIELD_OUTPUT) -> StoredObject | None:
        """None when there is no such object."""
        bucket, key = bucket_and_key(uri, field)

        def head() -> StoredObject | None:
            try:
                answer = self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                if status_of(error) == 403:  # the response to a HEAD does not say why: that to a GET does
                    self._client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
                raise
            return StoredObject(uri, key.rsplit("/", 1)[-1], answer["ContentLength"], answer.get("ETag", ""))

        return self._with_retries(head, uri, field)

    def size(self, uri: str, *, field: str = FIELD_OUTPUT) -> int | None:
        """None when there is no such object."""
        found = self.describe(uri, field=field)
        return found.size if found else None

    def exists(self, uri: str, *, field: str = FIELD_OUTPUT) -> bool:
        return self.size(uri, field=field) is not None

    def list(self, uri: str, *, field: str = FIELD_OUTPUT) -> tuple[StoredObject, ...]:
        """Every object below the prefix, by key."""
        bucket, key = bucket_and_key(uri, field)
        prefix = key.rstrip("/") + "/" if key else ""

        def pages() -> tuple[StoredObject, ...]:
            paginator = self._client.get_paginator("list_objects_v2")
            return tuple(
                StoredObject(f"s3://{bucket}/{item['Key']}", item["Key"][len(prefix) :], item["Size"], item["ETag"])
                for page in paginator.paginate(Bucket=bucket, Prefix=prefix)
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            )

        return self._with_retries(pages, uri, field)

    # --- writing -------------------------------------------------------------------------------------------------

    def put_file(self, path: Path, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        bucket, key = bucket_and_key(uri, field)
        meter = TransferMeter(f"uploading {uri}", path.stat().st_size, self._report)

        def transfer() -> None:
            meter.restart()
            self._client.upload_file(str(path), bucket, key, Callback=meter, Config=_TRANSFER)

        self._with_retries(transfer, uri, field, meter)

    def put_bytes(self, uri: str, data: bytes, *, if_none_match: bool = False, field: str = FIELD_OUTPUT) -> bool:
        """False when the object already exists and `if_none_match` forbids replacing it.

        A retried request can meet its own first try: a caller that has to know writes something unique and reads it
        back."""
        bucket, key = bucket_and_key(uri, field)

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

        return self._with_retries(put, uri, field)

    def delete(self, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        bucket, key = bucket_and_key(uri, field)
        self._with_retries(lambda: self._client.delete_object(Bucket=bucket, Key=key), uri, field)

    def delete_prefix(self, uri: str, *, field: str = FIELD_OUTPUT) -> None:
        for item in self.list(uri, field=field):
            self.delete(item.uri, field=field)

    def probe(self, output_uri: str) -> None:
        """Can this run store its result, and find it again? Asked first of all, before hours of work.

        The bucket is looked at before anything is written: some servers create a missing bucket on the first write.
        Keys that may not delete are enough: old checkpoints then stay.

        Raises:
            ConfigurationError: the bucket, or a right that the keys lack.
        """
        bucket, _ = bucket_and_key(output_uri, FIELD_OUTPUT)
        uri = f"{output_uri.rstrip('/')}/.finetune/write-probe"

        def head() -> None:
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                # The response to a HEAD has no body with the reason; that of a denied write has one.
                if status_of(error) != 403:
                    raise

        self._with_retries(head, f"s3://{bucket}", FIELD_OUTPUT)
        with _right("write"):
            self.put_bytes(uri, b"written to test write access\n")
        with _right("read"):
            self.get_bytes(uri)  # None when the probe of another start has just deleted it
        with _right("list"):
            self.list(f"{output_uri.rstrip('/')}/.finetune/runs/.none")
        self.delete_if_allowed(uri)

    def delete_if_allowed(self, uri: str) -> bool:
        """Keys that may write and not delete are warned of once, and everything goes on: False."""
        try:
            self.delete(uri)
        except ConfigurationError as error:
            if error.reason != ACCESS_DENIED:
                raise
            if not self._warned:
                self._warned.add(ACCESS_DENIED)
                self._report(f"warning: the keys may not delete, so old checkpoints stay in the bucket ({error})")
            return False
        return True

    # --- retries --------------------------------------------------------------------------------------------------

    def _with_retries(
        self, call: Callable[[], Result], uri: str, field: str, meter: TransferMeter | None = None
    ) -> Result:
        """Calls until it works, or nothing has moved for as long as the budget. Only errors that may pass by
        themselves are retried; keys that were refused are read again first."""
        silence = Silence(self._budget, meter)

        def announce(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._report(f"storage: {error}; next try in {state.upcoming_sleep:.0f} s")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=silence.is_too_long,
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
            before_sleep=announce,
            reraise=True,
        )

        def attempt() -> Result:
            with self._errors.mapped(uri, field):
                result = call()
            self._access.has_worked = True
            return result

        return retrying(attempt)

    def _may_pass(self, error: BaseException) -> bool:
        """Refused keys may pass when the Secret has others by now, or when these worked until now: the kubelet takes a
        minute or two to bring the new ones."""
        if isinstance(error, ConfigurationError) and error.reason in {KEYS_REFUSED, ACCESS_DENIED}:
            worked = self._access.has_worked
            return self._access.renew() or (worked and error.reason == KEYS_REFUSED)
        return isinstance(error, Transient) and not isinstance(error, Vanished)


@contextmanager
def _as_vanished(uri: str, field: str) -> Iterator[None]:
    """What is downloaded was there a moment ago, when its size was asked for."""
    try:
        yield
    except (S3DownloadFailedError, S3ValidationError) as error:  # its parts do not belong together
        raise Vanished(uri, field) from error
    except ClientError as error:
        if status_of(error) == 412 or code_of(error) in {"404", "NoSuchKey"}:
            raise Vanished(uri, field) from error
        raise


@contextmanager
def _right(name: str) -> Iterator[None]:
    """Says which of the rights that a run needs is the missing one."""
    try:
        yield
    except ConfigurationError as error:
        if error.reason == ACCESS_DENIED:
            message = f"the keys may not {name} there: {error.message}"
            raise ConfigurationError(message, field=FIELD_OUTPUT, reason=ACCESS_DENIED) from error
        raise
