"""Whoever runs the tests, root too, as somebody who may read and write no more than modes and limits of files allow."""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager

OVERRIDING = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
VERSION = 0x20080522
EFFECTIVE = 0  # of the three words of each half

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def as_files_allow() -> Iterator[None]:
    """Take the right to pass modes over from this thread, and give it back."""
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    had = (ctypes.c_uint32 * 6)()
    assert _libc.capget(header, had) == 0
    less = (ctypes.c_uint32 * 6)(*had)
    less[EFFECTIVE] &= ~OVERRIDING
    assert _libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert _libc.capset(header, had) == 0


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let this process write no file of more than so many bytes, as where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
