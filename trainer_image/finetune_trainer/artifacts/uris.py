"""The three kinds of URI that a job may name: s3://bucket/key, pvc://claim/path, file:///path."""

import os
from pathlib import Path

from finetune_contract import names
from finetune_trainer.errors import ConfigurationError

ENV_CLAIMS_DIR = "FINETUNE_CLAIMS_DIR"


def bucket_and_key(uri: str, field: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigurationError(f"{uri} is not of the form s3://bucket/prefix", field=field)
    return bucket, key


def local_path(uri: str, field: str) -> Path:
    """Where the pod sees what a pvc:// or file:// URI names."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return Path(rest)
    if scheme == "pvc" and rest:
        claims = Path(os.environ.get(ENV_CLAIMS_DIR, names.CLAIMS_DIR))
        claim, _, path = rest.partition("/")
        return inside(claims / claim, path, field)
    raise ConfigurationError(f"{uri} is none of s3://bucket/key, pvc://claim/path, file:///path", field=field)


def inside(folder: Path, relative: str, field: str) -> Path:
    if ".." in Path(relative).parts or relative.startswith("/"):
        raise ConfigurationError(f"{relative!r} leads out of its folder", field=field)
    return folder / relative


def claim_hint(uri: str) -> str:
    return " below the root of the claim" if uri.startswith("pvc://") else ""
