"""How large the resources of this pod are. Each answers in words, and never fails: it is asked when something has."""

import os
import resource
import shutil
from pathlib import Path

from finetune_contract import names

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> str:
    for file in _MEMORY_LIMITS:
        try:
            return f"limit {_gib(int(file.read_text()))}"
        except (OSError, ValueError):
            continue  # "max", or no such file
    return "no limit of the pod's own"


def disk() -> str:
    return _volume(Path(os.environ.get(names.ENV_SCRATCH_DIR, names.SCRATCH_DIR)))


def shared_memory() -> str:
    return _volume(Path("/dev/shm"))  # noqa: S108 - the mount point itself


def open_files() -> str:
    return f"limit {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"


def processes() -> str:
    try:
        limit = Path("/sys/fs/cgroup/pids.max").read_text().strip()
    except OSError:
        limit = "unknown"
    return f"limit {limit}"


def _volume(path: Path) -> str:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return f"{path}, of unknown size"
    return f"{path}, {_gib(usage.total)}, {_gib(usage.free)} free"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
