"""Is there room? A full disk shows itself late and in odd places."""

from __future__ import annotations

import shutil
from pathlib import Path


class DiskFullError(RuntimeError):
    """There is too little room to begin."""


def needed_gib(*, control_plane_only: bool, trainer_image_built: bool) -> int:
    """The trainer image lies in the build store, the registry and both nodes, 6 GB each, and is written via /tmp."""
    if control_plane_only:
        return 2
    return 8 if trainer_image_built else 40


def check(folder: Path, gib: int) -> None:
    """DiskFullError unless the file system of `folder` has that much room."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise DiskFullError(
            f"{free:.0f} GiB are free at {folder}, {gib} GiB are needed (images in the build store, the registry and "
            "on both nodes). Set XDG_CACHE_HOME to a larger disk, or drop old images by `prune`"
        )
