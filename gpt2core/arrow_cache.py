"""Arrow files in the cache. Each ends with a checksum and its own name.

A truncated, changed or renamed file is treated as missing.
"""

import errno
import os
import zlib
from pathlib import Path

import pyarrow as pa

from gpt2core.files import atomic_path, mark_used


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table atomically; raise OSError, which names the file."""
    try:
        with atomic_path(path) as part:
            with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            with pa.memory_map(str(part)) as written:
                end = _end(path, written.read_buffer())
            with part.open("ab") as file:
                file.write(end)
    except OSError as error:  # Arrow's errors do not name the file
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from None


def read_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Memory-map a file and return its table; None if the file is missing, damaged or renamed."""
    try:
        with pa.memory_map(str(path)) as source:
            whole = source.read_buffer()
        length = whole.size - len(_end(path, b""))
        content = whole.slice(0, max(0, length))
        if length < 0 or whole.slice(length).to_pybytes() != _end(path, content):
            return None
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    except (OSError, pa.ArrowException):
        return None
    if not table.schema.equals(schema):
        return None
    mark_used(path)
    return table


def _end(path: Path, content: pa.Buffer | bytes) -> bytes:
    return f"\n{zlib.crc32(content):08x} {path.name}\n".encode()
