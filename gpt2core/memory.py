"""Memory that a run takes: of a GPU, predicted; of its process, measured."""

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

FORMULA = "4 * total + 12 * trainable bytes + 0.25 GB"
PROCESS = Path("/proc/self")
#: How PyTorch and Ray say that there is no memory where they have no class of errors for that.
NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "low on memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that this process, or its GPU, has no memory left."""
    import torch  # takes a second to import

    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def predicted_gpu_memory_gb(total: int, trainable: int) -> float:
    """Weights in float32 (4 bytes each), and for what trains a gradient and AdamW's two moments (12), in gigabytes.

    The quarter of a gigabyte is what the study's table has beside them; activations of larger batches come on top.
    """
    return (4 * total + 12 * trainable) / 1e9 + 0.25


def process_memory_gb() -> float:
    """The most memory that this process has held since its start or the last `release_memory`, in gigabytes.

    Where the kernel does not count anew (it is Linux that does), since its start.
    """
    with suppress(OSError):
        peak = re.search(r"VmHWM:\s*(\d+) kB", (PROCESS / "status").read_text())
        if peak:
            return int(peak[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def release_memory() -> None:
    """Give the machine back what this process holds and no longer needs, and count its peak anew.

    glibc keeps freed memory for each thread that allocated it. A process whose every run has a thread of its own grew from
    1 GB to 2 in thirty runs without this.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")
