"""Maps errors of the S3 client to ours: the job's fault, with field and cure, or a transient failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from urllib3.exceptions import HTTPError

from finetune_trainer.errors import ConfigurationError, TrainerError, Transient

FIELD_SECRET = "spec.storage.secretName"  # noqa: S105 - a field's name
FIELD_ENDPOINT = "spec.storage.endpoint"
FIELD_REGION = "spec.storage.region"

KEYS_REFUSED = "StorageKeysRefused"
"""Reason: unknown, wrong or expired keys."""
ACCESS_DENIED = "StorageAccessDenied"
"""Reason: known keys without this right."""

_WRONG_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_TRANSIENT = {
    "RequestTimeTooSkewed",
    "BadDigest",
    "RequestTimeout",
    "SlowDown",
    "ConditionalRequestConflict",
    "NoSuchUpload",  # the parts that were sent so far are gone: it begins again
}


class Vanished(Transient):
    """An object that was there a moment ago is gone, or is another one: somebody changes it while it is read."""

    def __init__(self, uri: str, field: str) -> None:
        super().__init__(
            f"{field}: {uri} was deleted or replaced while it was read. Leave the source unchanged while a job runs; "
            "the next attempt reads it again",
            reason="SourceChanged",
        )


@dataclass(frozen=True)
class S3ErrorMapper:
    endpoint: str | None
    """None: AWS."""
    secret_name: str | None

    @contextmanager
    def mapped(self, uri: str, field: str) -> Iterator[None]:
        """Raises errors of the client as ours. Those that may pass by themselves become Transient."""
        try:
            yield
        except TrainerError:
            raise
        except Boto3Error as error:
            cause = getattr(error, "last_exception", None) or error.__context__
            raise (
                self._map(cause, uri, field) if isinstance(cause, Exception) else self._transient(error, uri)
            ) from error
        except (ClientError, BotoCoreError, HTTPError, ConnectionError, TimeoutError) as error:
            raise self._map(error, uri, field) from error

    def _map(self, error: Exception, uri: str, field: str) -> TrainerError:
        if isinstance(error, ClientError):
            return self._from_response(error, uri, field)
        if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
            return ConfigurationError(
                f"no S3 keys: {error}. Name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give the pod a workload identity",
                field=FIELD_SECRET,
                reason="StorageKeysMissing",
            )
        if isinstance(error, SSLError):
            return ConfigurationError(
                f"{self._where} has a certificate that cannot be verified: {error}. Put the CA's certificate as ca.crt "
                f"into the Secret of {FIELD_SECRET}",
                field=FIELD_ENDPOINT,
                reason="StorageCertificateRefused",
            )
        if isinstance(error, ParamValidationError):
            return ConfigurationError(f"{uri}: {error}", field=field)
        return self._transient(error, uri)

    def _from_response(self, error: ClientError, uri: str, field: str) -> TrainerError:
        """What the server's response means for the author of the job."""
        code, status = code_of(error), status_of(error)
        bucket = uri.removeprefix("s3://").split("/", 1)[0]
        if code in _TRANSIENT or status >= 500 or status in {408, 429}:
            return self._transient(error, uri)
        if code in _WRONG_KEYS:
            return ConfigurationError(
                f"{self._where} rejects the keys{self._of_secret} ({code}). Put a valid AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY there",
                field=FIELD_SECRET,
                reason=KEYS_REFUSED,
            )
        if code in _WRONG_REGION or status in {301, 307}:
            return ConfigurationError(
                f"bucket {bucket!r} is in another region ({code}). Set its region",
                field=FIELD_REGION,
                reason="WrongRegion",
            )
        if code == "NoSuchBucket" or (status == 404 and uri == f"s3://{bucket}"):
            return ConfigurationError(
                f"bucket {bucket!r} does not exist. Create it, or name another", field=field, reason="BucketNotFound"
            )
        if status == 404:
            return ConfigurationError(f"{uri} does not exist. Check the path", field=field, reason="SourceNotFound")
        if status == 403:
            return ConfigurationError(
                f"access to {uri} is denied ({code}): bucket {bucket!r} does not exist, or the keys{self._of_secret} "
                f"({FIELD_SECRET}) have no permission. Create the bucket, or grant them read, write, list and delete",
                field=field,
                reason=ACCESS_DENIED,
            )
        return ConfigurationError(
            f"{self._where} rejects the request for {uri}: {error}", field=field, reason="StorageRefused"
        )

    def _transient(self, error: Exception, uri: str) -> Transient:
        return Transient(f"{self._where} ({FIELD_ENDPOINT}) is unavailable for {uri}: {error}")

    @property
    def _where(self) -> str:
        return self.endpoint or "AWS S3"

    @property
    def _of_secret(self) -> str:
        return f" of Secret {self.secret_name!r}" if self.secret_name else ""


def code_of(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def status_of(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
