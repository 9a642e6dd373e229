"""Is there room? A full disk shows itself late and in odd places."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from dev.localcluster.errors import CurableError

PROGRAMS_GIB = 6.0  # modules 1.5, build cache 2.9, programs 0.3
# buildah holds the 5 GiB layer with torch and CUDA four times while it commits it: as the container's files, as two
# archives one after the other, and as the layer itself. Then three of them go.
TRAINER_GIB = 22.0


def needs(*, programs_built: bool, trainer_built: bool) -> dict[str, float]:
    """GiB that a start takes at its worst moment, by what they are for, with a little margin."""
    wanted = {"the cluster's own data, logs and the S3 storage": 2.0}
    if not programs_built:
        wanted["Go's modules and build cache, and the programs from them"] = PROGRAMS_GIB
    if not trainer_built:
        wanted["the trainer image while it is built (a quarter of that remains)"] = TRAINER_GIB
    return wanted


def check(folder: Path, wanted: Mapping[str, float], free: float | None = None) -> None:
    """CurableError unless the file system of `folder` has that much room. `free` in GiB, measured when not given."""
    folder.mkdir(parents=True, exist_ok=True)
    if free is None:
        free = shutil.disk_usage(folder).free / 2**30
    total = sum(wanted.values())
    if free < total:
        parts = "; ".join(f"{gib:.0f} GiB for {what}" for what, gib in wanted.items())
        raise CurableError(
            f"{folder} is on the file system {mount_point(folder)}, of which {free:.1f} GiB are free. "
            f"{total:.0f} GiB are needed: {parts}",
            "Make room there, or set XDG_CACHE_HOME to a folder on a larger disk. "
            "`python -m dev.localcluster prune` drops what earlier runs have built, `go clean -cache` what Go has.",
        )


def mount_point(folder: Path) -> Path:
    """Where its file system is mounted."""
    return next(each for each in (folder.resolve(), *folder.resolve().parents) if each.is_mount())
