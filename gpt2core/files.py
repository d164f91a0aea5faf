"""Atomic files, locks, bounded JSON and the cache folder."""

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

LARGEST = 2**28  # bytes of a JSON file; a tokenizer with a million entries has 70 MB
DEEPEST = 100  # levels of nested JSON


class NoObjectError(DataError):
    """Valid JSON that is not an object."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, then flush it to disk and rename it to `path`; remove it on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # minus the umask
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        yield part
        if stat.S_IMODE(part.stat().st_mode) != mode:  # the writer replaced the file
            part.chmod(mode)
        flush_file(part)
        try:
            part.replace(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which then atomically becomes `target`. Any folder there before is removed."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        mode = part.stat().st_mode & 0o666  # safetensors makes its files unreadable to others
        for path in part.iterdir():
            path.chmod(mode)
            flush_file(path)
        flush_folder(part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` against other processes of this machine; without `wait`, raise BlockingIOError if it is held."""
    while True:
        file = _lock_file(path)
        try:
            lock(file, wait=wait)
            if _is_at(file, path):  # else the last holder removed it, and a third process may lock a new file
                yield
                return
        finally:
            os.close(file)


def lock(file: int | IO[Any], *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file until it is closed; `shared` allows other shared locks. Without `wait`, raise BlockingIOError if locked.

    The lock belongs to the file itself: it survives a move of the folder, and needs only read access.
    """
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user created it
            return os.open(path, os.O_RDONLY)
    except OSError as error:
        hint = ", or set GPT2_SEARCH_CACHE to another folder" if path.is_relative_to(cache_folder()) else ""
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); change its owner{hint}") from None


def readable(path: Path) -> Path:
    """Return the path; raise OSError for a folder or an unreadable file, where errors of safetensors are misleading."""
    with suppress(FileNotFoundError, NotADirectoryError):  # the caller reports a missing file
        path.open("rb").close()
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file that is never changed in place; copy the file where it cannot be linked."""
    try:
        if source.stat().st_uid != os.geteuid():  # whose mode could not be changed
            raise PermissionError
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def flush_file(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, so that a rename in it survives a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """Return the JSON object in a file of at most `most` bytes. Raises OSError, and DataError for any other content."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("is not a file")
        with path.open("rb") as file:
            return json_object(file.read(most + 1), most)
    except DataError as error:
        raise type(error)(f"{path}: {error}") from None


def json_object(data: bytes, most: int) -> dict[str, Any]:
    """Return the JSON object in at most `most` bytes; raise DataError, which names no file, for anything else."""
    if len(data) > most:
        raise DataError(f"is longer than {most:,} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise DataError("is nested too deep") from None
    except ValueError:  # Python limits the digits
        raise DataError("has a number of thousands of digits") from None
    if not isinstance(value, dict):
        raise NoObjectError("is not a JSON object")
    if _is_deeper(value, DEEPEST):  # would exceed the recursion limit later
        raise DataError("is nested too deep")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    """Return whether lists and objects are nested deeper than `most` levels."""
    level = [value]
    while level and most >= 0:
        items = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in items if isinstance(item, (dict, list))]
        most -= 1
    return bool(level)


def broken_rule(error: ValidationError) -> str:
    """Return one line that names the invalid value and the rule that it breaks."""
    first = error.errors()[0]
    return f"`{'.'.join(map(str, first['loc']))}` is {shown(first['input'])}: {visible(first['msg'])}"


def home() -> Path:
    """Return the user's home folder; raise ConfigError if it is unknown."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"The user {os.getuid()} has no home folder: set HOME") from None


def mark_used(entry: Path) -> None:
    """Mark a cache entry as used now, for `trim`."""
    with suppress(PermissionError):  # another user's
        os.utime(entry)


def trim(folder: Path, most: int) -> None:
    """Remove the least recently used entries beyond `most` bytes, except the latest one and folders whose `.lock` is held."""
    kept = 0
    with suppress(FileNotFoundError):  # another process trims it too
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
    """Return the cache, whose content can be recomputed: $GPT2_SEARCH_CACHE, or ~/.cache/gpt2-search."""
    return Path(os.environ.get("GPT2_SEARCH_CACHE") or home() / ".cache" / "gpt2-search")


def cache_folder(part: str = "") -> Path:
    """Return a folder of the cache, created if missing; raise ConfigError if it is not writable."""
    folder = cache_place() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"{folder}: the cache cannot be written ({error.strerror}); set GPT2_SEARCH_CACHE or HOME to another folder"
        ) from None
    return folder
