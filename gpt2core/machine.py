"""The number of CPUs that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cpus() -> int:
    """Return the number of CPUs by affinity and cgroup quotas, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the CPU quota of each cgroup of this process; cgroup v1 and v2."""
    for folder in _cgroup_folders():
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            if quota.isdecimal() and int(period) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue


def _cgroup_folders() -> Iterator[Path]:
    """Yield the folders of this process's cgroups and their parents, up to the root, which a container sees as its own."""
    try:
        lines = [line.split(":", 2) for line in OWN.read_text().splitlines()]
    except OSError:
        return
    for _, kinds, place in (line for line in lines if len(line) == 3):
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = GROUPS / kinds
        group = root / place.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))
