"""Storage behind an address such as `s3://bucket/folder`: processes work on files of their machine, and send and fetch them.

An address stands for a folder in this machine's cache, its *copy*. Only this module knows copies from other folders: where a
folder is no copy, but one of this machine or one that all machines share, to send and to fetch it is to do nothing.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpt2core.errors import ConfigError, StorageError, first_line, without_password
from gpt2core.files import atomic_path, cache_place, locked

SCHEMES = ("s3", "gs")
LONGEST = 200  # bytes of a name, so that one beside it with a prefix fits on every disk
NAME = re.compile(
    rf"[A-Za-z0-9_][A-Za-z0-9_.=-]{{0,{LONGEST - 1}}}"
)  # of a bucket or a folder in it: none leads out of where it is
ATTEMPTS = 8  # of a request, with ever longer pauses
AT_ONCE = 8  # files that are fetched at once
PIECE = 2**24  # bytes that are copied at a time

Version = tuple[int, int]  # of a file: when it was written, in nanoseconds, and its size

_in_storage: dict[Path, Version] = {}  # copies that the storage has as they are here


def is_address(place: str) -> bool:
    """Whether this is an address, and not a path."""
    return "://" in place and not place.startswith("file://")


def local(place: str) -> Path:
    """The path on this machine that a path or an address means. Raises ConfigError for an address that cannot be used."""
    if not is_address(place):
        return Path(place.removeprefix("file://")).expanduser().absolute()
    scheme, _, rest = place.partition("://")
    parts = rest.rstrip("/").split("/")
    if scheme not in SCHEMES or not all(NAME.fullmatch(part) for part in parts):
        valid = " or ".join(f"{name}://BUCKET/FOLDER" for name in SCHEMES)
        raise ConfigError(
            f"The value of an address is {without_password(place)!r}, but must be {valid}, each of at most {LONGEST} letters, "
            "digits and _ . = -; the environment says where the storage is and who asks: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID"
        )
    return _copies().joinpath(scheme, *parts)


def address(path: Path) -> str:
    """What means this path on every machine: the address that it is a copy of, else the path itself."""
    if not is_copy(path):
        return str(path)
    scheme, *parts = path.relative_to(_copies()).parts
    return f"{scheme}://{'/'.join(parts)}"


def is_copy(path: Path) -> bool:
    """Whether this is a copy of what an address names."""
    return path.is_relative_to(_copies())


def fetch(path: Path, *, recursive: bool = True) -> None:
    """Make a copy, of a file or a folder, as the storage has it; what is not there is removed here. Raises StorageError.

    Without `recursive`, the folders in a folder are left alone.
    """
    if not is_copy(path):
        return
    with _explained("fetched", path), locked(path.with_name(f".{path.name}.lock")):
        there = _downloaded(path, recursive)
        for file in set(_written(path, recursive)) - set(there):
            file.unlink()
            _in_storage.pop(file, None)


def send(path: Path, *, recursive: bool = True) -> None:
    """Make the storage have a copy, of a file or a folder, as it is here. Raises StorageError.

    Files go in the order in which they were written, and what was removed here is removed last: so what a kill leaves in the
    storage is what was here a moment before.
    """
    if not is_copy(path):
        return
    with _explained("sent", path):
        files = _written(path, recursive)
        for file, version in sorted(files.items(), key=lambda item: item[1]):
            if _in_storage.get(file) != version:
                _upload(file)
                _in_storage[file] = version
        for file in [known for known in list(_in_storage) if _holds(path, known, recursive) and known not in files]:
            _remove(file)
            del _in_storage[file]


def folders(path: Path) -> list[str]:
    """The names of the folders in a folder; of a copy, of those that the storage has. Raises StorageError."""
    if not is_copy(path):
        return sorted(child.name for child in path.glob("*/"))
    with _explained("listed", path):
        found = _inside(path, [info.path for info in _listed(path, recursive=False) if not info.is_file])
        return sorted(folder.name for folder in found)


def size(path: Path) -> int:
    """The bytes of all files in a folder; of a copy, of those that the storage has. Raises StorageError."""
    if not is_copy(path):
        total = 0
        for file in path.rglob("*"):
            with suppress(FileNotFoundError):  # it went away meanwhile
                total += file.stat().st_size if file.is_file() else 0
        return total
    with _explained("listed", path):
        return sum(info.size for info in _listed(path, recursive=True) if info.is_file)


def _copies() -> Path:
    return cache_place().absolute() / "storage"


@contextmanager
def _explained(done: str, path: Path) -> Iterator[None]:
    """Say what could not be done with which address."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{address(path)}: cannot be {done} ({first_line(error)}); see AWS_ENDPOINT_URL and the rights of who asks"
        ) from None


def _filesystem(scheme: str, bucket: str) -> Any:
    """Arrow's filesystem of a bucket. Keys and place are the environment's, as for every program that speaks to S3."""
    if scheme == "gs":
        return _google()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return _amazon(bucket, endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))


@lru_cache
def _google() -> Any:
    from pyarrow import fs

    return fs.GcsFileSystem()


@lru_cache
def _amazon(bucket: str, endpoint: str | None, region: str | None) -> Any:
    from pyarrow import fs

    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # a small file is then one request
    )


def _place(path: Path) -> tuple[Any, str]:
    """The filesystem that a copy is of, and its key there."""
    scheme, *parts = path.relative_to(_copies()).parts
    return _filesystem(scheme, parts[0]), "/".join(parts)


def _stored(path: Path, recursive: bool) -> Sequence[Path]:
    """The files that the storage has at or in a place, as the copies that they would be."""
    files, key = _place(path)
    if files.get_file_info(key).is_file:
        return [path]
    return _inside(path, [info.path for info in _listed(path, recursive) if info.is_file])


def _inside(path: Path, keys: Sequence[str]) -> list[Path]:
    """The copies of what a storage lists in a folder; hidden ones are being written. Raises StorageError.

    A storage may answer anything: a name must mean one file, the same on every disk, and inside of the folder.
    """
    _, folder = _place(path)
    there: dict[str, str] = {}
    for key in keys:
        name = key.removeprefix(f"{folder}/")
        parts = name.split("/")
        if name == key or not all(map(_is_name, parts)) or there.setdefault(name.casefold(), name) != name:
            raise StorageError(
                f"{address(path)}: the storage lists the name {name[:LONGEST]!r}, but a name must lead to one place in its "
                f"folder: no `..`, no backslash or control character, at most {LONGEST} bytes, and none that differs from "
                "another in case alone; remove it there"
            )
    return [path / name for name in there.values() if not any(part.startswith(".") for part in name.split("/"))]


def _is_name(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode(errors="replace")) <= LONGEST
    )


def _listed(path: Path, recursive: bool) -> Sequence[Any]:
    """What the storage has in a folder."""
    from pyarrow import fs

    files, key = _place(path)
    return list(files.get_file_info(fs.FileSelector(key, allow_not_found=True, recursive=recursive)))


def _written(path: Path, recursive: bool) -> dict[Path, Version]:
    """The files that are here at or in a place; not those that are being written, whose names are hidden."""
    pattern = "**/[!.]*" if recursive else "[!.]*"
    files = [path] if path.is_file() else [file for file in path.glob(pattern) if file.is_file()]
    seen = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return {file: _version(file) for file in seen}


def _version(file: Path) -> Version:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _holds(path: Path, file: Path, recursive: bool) -> bool:
    return file == path or (file.is_relative_to(path) if recursive else file.parent == path)


def _downloaded(path: Path, recursive: bool, again: int = ATTEMPTS) -> Sequence[Path]:
    """Download what the storage has at or in a place; where some of it is removed meanwhile, what it has then."""
    there = _stored(path, recursive)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(_download, there))
    except FileNotFoundError:
        if not again:
            raise
        return _downloaded(path, recursive, again - 1)
    return there


def _download(file: Path) -> None:
    files, key = _place(file)
    with files.open_input_stream(key) as source, atomic_path(file) as part, part.open("wb") as target:
        shutil.copyfileobj(source, target, PIECE)
    _in_storage[file] = _version(file)


def _upload(file: Path) -> None:
    files, key = _place(file)
    with file.open("rb") as source, files.open_output_stream(key) as target:
        shutil.copyfileobj(source, target, PIECE)


def _remove(file: Path) -> None:
    files, key = _place(file)
    files.delete_file(key)
