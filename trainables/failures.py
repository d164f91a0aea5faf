"""Why a trial failed: the kind of an error, and what the user can do about it."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2core.errors import CheckpointError, DivergedError, StorageError, UserError, first_line
from gpt2core.machine import NO_MEMORY, is_out_of_memory

DIVERGED, FAILED, OUT_OF_MEMORY = "diverged", "failed", "out_of_memory"
NO_ROOM = "no_room"  # the disk is full, which is not the trial's fault

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Failure:
    """The kind and reason of a failure. `common` means that all workers of the trial fail in the same way."""

    kind: str
    reason: str
    common: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which Tune can serialise."""
        return {"kind": self.kind, "reason": self.reason}


def failure_of(error: BaseException) -> Failure | None:
    """Return what an error means for its trial, or None if another attempt may succeed."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    for cause in _causes(error):
        match cause:
            case DivergedError():
                return Failure(DIVERGED, first_line(cause), common=True)
            case Exception() if isinstance(cause, OutOfMemoryError) or is_out_of_memory(cause):
                return Failure(OUT_OF_MEMORY, f"out of memory: {first_line(cause)}")
            case RayActorError() if any(words in str(cause) for words in NO_MEMORY):
                return Failure(OUT_OF_MEMORY, "out of memory: its node had none left, and Ray killed its process")
            case StorageError():
                return None
            case CheckpointError():
                return Failure(NO_ROOM if disk_full_message(str(cause)) else FAILED, first_line(cause))
            case UserError():
                return Failure(FAILED, first_line(cause), common=True)
            case OSError() if cause.errno in DISK_FULL:
                where = cause.filename or "its disk"
                return Failure(NO_ROOM, f"{where}: is full ({cause.strerror}); make room, or choose another --storage")
    return None


def disk_full_message(text: str) -> str | None:
    """Return the part of an error's text that says that a disk is full, if any."""
    return next((message for message in map(os.strerror, DISK_FULL) if message in text), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all errors that it wraps, as Ray's errors do, or was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__


def kernel_kills() -> int:
    """Return how many processes the kernel's OOM killer has ended on this machine; 0 if that is unknown."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
