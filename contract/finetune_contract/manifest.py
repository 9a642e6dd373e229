"""The manifest: written last, so that whatever has a manifest that verifies is complete.

Used for prepared data, checkpoints and the final artifact alike: valid ⇔ the manifest is there and every file in it
has the size and the SHA-256 that it states.
"""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MANIFEST_NAME = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class FileEntry(_Part):
    path: str
    """Relative to the manifest, with forward slashes."""
    size: int = Field(ge=0)
    sha256: str


class Manifest(_Part):
    version: int = 1
    kind: Literal["prepared", "checkpoint", "adapter", "model"]
    """`adapter`: peft's format; `model`: whole weights (full and freeze)."""
    files: tuple[FileEntry, ...] = Field(min_length=1)
    uid: str = ""
    run: int = 0
    attempt: int = 0
    fencing_token: int = Field(default=0, validation_alias="epoch", serialization_alias="epoch")
    """Of the start that wrote it: a superseded start cannot commit. `epoch` in JSON."""
    step: int = Field(default=0, ge=0, lt=2**53)
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Model source and revision, dataset digests, config hash, image, versions."""
    metrics: dict[str, Any] = Field(default_factory=dict)

    def render(self) -> bytes:
        return self.model_dump_json(by_alias=True, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        return cls.model_validate_json(data)

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)


def digest(data: bytes) -> str:
    """Digest of a rendered manifest: names the artifact with all its files."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
