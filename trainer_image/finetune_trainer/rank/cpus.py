"""How many CPUs this container has."""

import os
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """What this container may use: a node may have 64 cores and the pod a limit of 4."""
    visible = len(os.sched_getaffinity(0))
    return max(1, min(visible, int(_cgroup_limit(cgroup) or visible)))


def _cgroup_limit(cgroup: Path) -> float | None:
    try:
        if (unified := cgroup / "cpu.max").is_file():
            quota, period = unified.read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        limit = float(quota) / float(period)
    except (OSError, ValueError):
        return None  # "max", or no such file: no limit
    return limit if limit > 0 else None
