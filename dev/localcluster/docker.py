"""Image builds where Docker is."""

from __future__ import annotations

from dev.localcluster import images
from dev.localcluster.commands import output_of, succeeds
from dev.localcluster.console import step
from dev.localcluster.layout import ROOT

BASE_IMAGE = "python:3.12-slim-bookworm"  # the Dockerfiles' own default


def is_usable() -> bool:
    """Whether there is a daemon: a client alone builds nothing."""
    return succeeds("docker", "info", timeout=10)


def ensure(name: str, host: str) -> str:
    """The reference of the image in Docker's own store, built when it is missing."""
    reference = images.reference(name, host)
    if not succeeds("docker", "image", "inspect", reference):
        with step(f"build {name} image"):
            file = ROOT / images.IMAGES[name].dockerfile
            output_of("docker", "build", f"--file={file}", f"--tag={reference}", ROOT, timeout=3600)
    return reference
