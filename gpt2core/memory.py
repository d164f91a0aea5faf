"""The memory of this process: its peak, out-of-memory errors, and release of freed memory."""

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")
#: Out-of-memory messages of PyTorch and Ray without an error class of their own.
NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "cannot allocate memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "low on memory"),
)


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
