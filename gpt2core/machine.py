"""The CPUs and the memory of this process."""

import ctypes
import gc
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
PROCESS = Path("/proc/self")
#: Out-of-memory messages of PyTorch and Ray without an error class of their own.
NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "cannot allocate memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "low on memory", "MPS backend out of memory"),
)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that this process or its GPU has no memory left."""
    import torch  # takes a second to import

    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def process_memory_gb() -> float:
    """Return the peak memory of this process in gigabytes, since the last `release_memory` (on Linux) or its start."""
    with suppress(OSError):
        peak = re.search(r"VmHWM:\s*(\d+) kB", (PROCESS / "status").read_text())
        if peak:
            return int(peak[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def release_memory() -> None:
    """Return freed memory to the operating system, and reset the peak.

    glibc keeps freed memory for each thread. Without this, a process with a thread for each run grew from 1 to 2 GB in 30 runs.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
