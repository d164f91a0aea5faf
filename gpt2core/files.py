"""Atomic files: written under a temporary name, flushed to disk, then renamed."""

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from gpt2core.errors import ConfigError, DataError, shown, visible

LARGEST = 2**28  # bytes of a JSON file; a tokenizer's of a million entries has 70 MB
DEEPEST = 100  # levels of JSON


class NoObjectError(DataError):
    """Well-formed JSON that is not an object."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write, which is then renamed to `path`; on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        yield part
        with part.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:  # who wrote has put a file of its own there
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        try:
            part.replace(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which other processes of this machine wait for.

    Raises BlockingIOError if another process holds it, unless told to `wait`.
    """
    while True:
        file = _lock_file(path)
        try:
            lock(file, wait=wait)
            if _is_at(file, path):  # else who held it has removed it, and a third process may lock a new one
                yield
                return
        finally:
            os.close(file)


def lock(file: int | IO[Any], *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file for this process until it is closed, or the process ends; `shared`, against exclusive locks alone.

    The lock is on the file itself: it follows a folder that is moved, and reading rights are enough. Raises BlockingIOError
    where another process holds it and there is no time to `wait`.
    """
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user has made it
            return os.open(path, os.O_RDONLY)
    except OSError as error:
        hint = ", or set GPT2_SEARCH_CACHE to a folder of yours" if path.is_relative_to(cache_folder()) else ""
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); give it to this user{hint}") from None


def readable(path: Path) -> Path:
    """Return the path; raise OSError for a folder or an unreadable file, on which safetensors' errors mislead."""
    with suppress(FileNotFoundError, NotADirectoryError):  # who reads it says so
        path.open("rb").close()
    return path


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, without which a rename in it does not survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file of at most so many bytes. Raises OSError, and DataError for anything else in it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("is no file")
        with path.open("rb") as file:
            return json_object(file.read(most + 1), most)
    except DataError as error:
        raise type(error)(f"{path}: {error}") from None


def json_object(data: bytes, most: int) -> dict[str, Any]:
    """The JSON object in at most so many bytes; raise DataError, which says why but not where, for anything else."""
    if len(data) > most:
        raise DataError(f"is longer than {most:,} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"is no JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise DataError("is nested too deep") from None
    except ValueError:  # the limit of Python's own
        raise DataError("has a number of thousands of digits") from None
    if not isinstance(value, dict):
        raise NoObjectError("is no JSON object")
    if _is_deeper(value, DEEPEST):  # whoever walks through it must not come to an end of Python's own
        raise DataError("is nested too deep")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    """Whether JSON's lists and objects are nested deeper than so many levels."""
    level = [value]
    while level and most >= 0:
        level = [
            one
            for outer in level
            for one in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(one, (dict, list))
        ]
        most -= 1
    return bool(level)


def broken_rule(error: ValidationError) -> str:
    """Say in one line which value of a file breaks which rule."""
    first = error.errors()[0]
    return f"`{'.'.join(map(str, first['loc']))}` is {shown(first['input'])}: {visible(first['msg'])}"


def home() -> Path:
    """The user's home folder; raise ConfigError if it is not known."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"The user {os.getuid()} has no name and no home: set HOME to a folder of yours") from None


def used(entry: Path) -> None:
    """Mark a cache entry as used now, for `trim`; it may be another user's."""
    with suppress(PermissionError):
        os.utime(entry)


def trim(folder: Path, most: int) -> None:
    """Remove the least recently used entries of a cache folder until the rest has at most so many bytes.

    The most recent entry is kept, and so is a folder whose `.lock` is held.
    """
    kept = 0
    with suppress(FileNotFoundError):  # another process trims it
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.suffix != ".lock"]
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True):
            size = sum(file.stat().st_size for file in (entry, *entry.rglob("*")))
            if kept and kept + size > most:
                _remove(entry)
            else:
                kept += size


def _remove(entry: Path) -> None:
    if not entry.is_dir():
        with suppress(OSError):  # another user's
            entry.unlink()
        return
    with suppress(BlockingIOError), locked(entry / ".lock", wait=False):
        shutil.rmtree(entry, ignore_errors=True)


def cache_place() -> Path:
    """The cache of what can be made again: $GPT2_SEARCH_CACHE, else ~/.cache/gpt2-search."""
    return Path(os.environ.get("GPT2_SEARCH_CACHE") or home() / ".cache" / "gpt2-search")


def cache_folder(part: str = "") -> Path:
    """A folder of the cache, created if missing; raise ConfigError if it is not writable."""
    folder = cache_place() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"{folder}: the cache cannot be written to ({error.strerror}); set GPT2_SEARCH_CACHE, or HOME, to a folder of yours"
        ) from None
    return folder
