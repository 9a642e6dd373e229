"""Object storage: fetches what a job names, stores what a run produces.

Reads `s3://`, `pvc://` and `file://`; writes `s3://` only. boto3 retries single requests; what it does not do is added
here: an outage is waited out within a budget, and every error becomes one of ours (s3_errors.py).

Uploads carry the checksum that botocore adds by default, which the server checks before it stores an object. For a
server that does not support it there is botocore's own `AWS_REQUEST_CHECKSUM_CALCULATION=when_required`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tenacity
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from finetune_contract import names
from finetune_contract.jobspec import JobFile
from finetune_trainer.artifacts.s3_client import make_client
from finetune_trainer.artifacts.s3_errors import S3ErrorMapper, code_of, status_of
from finetune_trainer.artifacts.transfer_meter import TransferMeter
from finetune_trainer.artifacts.uris import bucket_and_key, claim_hint, inside, local_path
from finetune_trainer.errors import ConfigurationError, Transient
from finetune_trainer.rank.reporting import Report, to_stdout

ENV_BUDGET = "FINETUNE_STORAGE_BUDGET_SECONDS"
"""How long an outage is waited out before the start ends with code 75."""

FIELD_OUTPUT = "spec.output.uri"

_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)

Result = TypeVar("Result")


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
        report: Report = to_stdout,
    ) -> None:
        self._errors = S3ErrorMapper(endpoint, secret_name)
        self._budget = float(os.environ.get(ENV_BUDGET, "120")) if budget_seconds is None else budget_seconds
        self._report = report
        self._client = make_client(
            endpoint=endpoint, region=region, credentials_dir=credentials_dir, secret_name=secret_name
        )

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

            def transfer(key: str = key, target: Path = target) -> None:
                self._client.download_file(bucket, key, str(target), Callback=meter, Config=_TRANSFER)

            self._with_retries(transfer, f"s3://{bucket}/{key}", field)

    def download(self, uri: str, target: Path, *, field: str = FIELD_OUTPUT) -> None:
        """One object to exactly this file."""
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

    def size(self, uri: str, *, field: str = FIELD_OUTPUT) -> int | None:
        """None when there is no such object."""
        bucket, key = bucket_and_key(uri, field)

        def head() -> int | None:
            try:
                return self._client.head_object(Bucket=bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise

        return self._with_retries(head, uri, field)

    def exists(self, uri: str, *, field: str = FIELD_OUTPUT) -> bool:
        return self.size(uri, field=field) is not None

    def list(self, uri: str, *, field: str = FIELD_OUTPUT) -> tuple[StoredObject, ...]:
        """Every object below the prefix, by key."""
        bucket, key = bucket_and_key(uri, field)
        prefix = key.rstrip("/") + "/" if key else ""

        def pages() -> tuple[StoredObject, ...]:
            paginator = self._client.get_paginator("list_objects_v2")
            return tuple(
                StoredObject(f"s3://{bucket}/{item['Key']}", item["Key"][len(prefix) :], item["Size"])
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
            self._client.upload_file(str(path), bucket, key, Callback=meter, Config=_TRANSFER)

        self._with_retries(transfer, uri, field)

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
        """Can this run store its result? Asked first of all, before hours of work.

        The bucket is looked at before anything is written: some servers create a missing bucket on the first write."""
        bucket, _ = bucket_and_key(output_uri, FIELD_OUTPUT)

        def head() -> None:
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                # The response to a HEAD has no body with the reason; that of a denied write has one.
                if status_of(error) != 403:
                    raise

        self._with_retries(head, f"s3://{bucket}", FIELD_OUTPUT)
        self.put_bytes(f"{output_uri.rstrip('/')}/.finetune/write-probe", b"written to test write access\n")

    # --- retries --------------------------------------------------------------------------------------------------

    def _with_retries(self, call: Callable[[], Result], uri: str, field: str) -> Result:
        """Calls until it works or the budget is used up. Only errors that may pass by themselves are retried."""

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
            with self._errors.mapped(uri, field):
                return call()

        return retrying(attempt)
