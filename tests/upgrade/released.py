"""The released version that today's has to follow: a commit of this repository, unpacked where a test wants it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "0.1.0"
COMMIT = "f178da8746ddd32871aa0f5bfaee2c0fb7e558f4"
"""Becomes the tag v0.1.0."""
FIXTURES = Path(__file__).parent / VERSION
"""See its README."""


class NoReleaseError(Exception):
    """The commit is not in this clone."""


def unpack(into: Path, *paths: str) -> Path:
    """Files of the release at `paths` (all of it without any), below `into`; returns `into`.

    Raises:
        NoReleaseError: with what to do about it.
    """
    if not (_has_release() or (_complete_history() and _has_release())):
        raise NoReleaseError(
            f"commit {COMMIT} (version {VERSION}) is not in this clone, which is shallow or has another history. "
            "Fetch it: git fetch --unshallow"
        )
    archive = subprocess.run(
        ["git", "archive", "--format=tar", COMMIT, *paths], cwd=ROOT, capture_output=True, check=True
    )
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(into, filter="data")
    return into


def _has_release() -> bool:
    return _git("cat-file", "-e", f"{COMMIT}^{{commit}}")


def _complete_history() -> bool:
    """A shallow clone, as many CI systems make it, gets the rest."""
    return _git("fetch", "--quiet", "--unshallow")


def _git(*words: str) -> bool:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True).returncode == 0
