"""Storage behind an address such as `s3://bucket/folder`: processes work on files of their machine, and send and fetch them.

An address stands for a folder in this machine's cache, its *copy*. Only this module knows copies from other folders: where a
folder is no copy, but one of this machine or one that all machines share, to send and to fetch it is to do nothing.

`read` and `write` are for one object that several machines write: each write is on condition of what the storage has.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError
from obstore.store import GCSStore, S3Store

from gpt2core.errors import ConfigError, StorageError, first_line, without_password
from gpt2core.files import atomic_path, cache_place, home, locked

SCHEMES = ("s3", "gs")
LONGEST = 200  # bytes of a name, so that one beside it with a prefix fits on every disk
NAME = re.compile(
    rf"[A-Za-z0-9_][A-Za-z0-9_.=-]{{0,{LONGEST - 1}}}"
)  # of a bucket or a folder in it: none leads out of where it is
ENDPOINT = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?")
ATTEMPTS = 8  # of a request, with ever longer pauses
AT_ONCE = 8  # files that are fetched at once
PIECE = 2**24  # bytes of a file that are fetched at a time
PARTS = 4  # of a large file, 5 MiB each, that are sent at once: a slow line has `TIMEOUTS` for them
TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "1h"}  # the last one is of a whole file

Version = tuple[int, int]  # of a file: when it was written, in nanoseconds, and its size
Tag = Any  # of a version of an object, as the storage names it: obstore's UpdateVersion

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
        _, prefixes = _listed(path, recursive=False)
        return sorted(folder.name for folder in _inside(path, prefixes))


def size(path: Path) -> int:
    """The bytes of all files in a folder; of a copy, of those that the storage has. Raises StorageError."""
    if not is_copy(path):
        total = 0
        for file in path.rglob("*"):
            with suppress(FileNotFoundError):  # it went away meanwhile
                total += file.stat().st_size if file.is_file() else 0
        return total
    with _explained("listed", path):
        objects, _ = _listed(path, recursive=True)
        return sum(found["size"] for found in objects)


def remove(path: Path) -> None:
    """Remove a file here, and of a copy what the storage has of it. Raises StorageError."""
    path.unlink(missing_ok=True)
    if is_copy(path):
        with _explained("removed", path):
            _remove(path)
        _in_storage.pop(path, None)


class OvertakenError(StorageError):
    """A conditional write is refused: the storage has another version of the object than the writer thinks."""


def read(path: Path) -> tuple[bytes, Tag] | None:
    """What the storage has at a copy's place now, with its tag; None where it has nothing. Raises StorageError."""
    bucket, key = _place(path)
    with _explained("read", path):
        try:
            answer = bucket.get(key)
            return bytes(answer.bytes()), _tag(answer.meta)
        except FileNotFoundError:
            return None


def write(path: Path, data: bytes, over: Tag | None) -> Tag:
    """Write what is to be at a copy's place, if the storage has the version `over` there, or nothing where it is None.

    Returns the tag of what was written. Raises OvertakenError where the storage has another version, and StorageError.
    """
    bucket, key = _place(path)
    with _explained("written", path):
        try:
            return _tag(bucket.put(key, data, mode=over or "create"))
        except (AlreadyExistsError, PreconditionError):
            raise OvertakenError(f"{address(path)}: another machine has written it meanwhile") from None
        except BaseError as error:
            if "501 Not Implemented" in str(error):
                raise _unconditional(path) from None
            raise


def check_conditions(path: Path) -> None:
    """Raise StorageError where the storage writes on conditions that do not hold. It has something at the copy's place."""
    there = read(path)
    for wrong in (None, {"e_tag": '"0"', "version": "1"}):
        with suppress(OvertakenError):
            write(path, there[0] if there else b"", wrong)
            raise _unconditional(path)


def _unconditional(path: Path) -> StorageError:
    return StorageError(
        f"{address(path)}: the storage does not know conditional writes (If-None-Match, If-Match), without which two machines "
        "may own one folder; choose a store that does, as S3, Google Cloud Storage and MinIO do, or a folder that all machines "
        "share"
    )


def _tag(meta: Any) -> Tag:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _copies() -> Path:
    return cache_place().absolute() / "storage"


@contextmanager
def _explained(done: str, path: Path) -> Iterator[None]:
    """Say what could not be done with which address."""
    try:
        yield
    except (OSError, BaseError) as error:
        place = address(path)
        key = "GOOGLE_APPLICATION_CREDENTIALS" if place.startswith("gs:") else "AWS_ENDPOINT_URL"
        raise StorageError(
            f"{place}: cannot be {done} ({_reason(error)}); see {key} and the rights of who asks"
        ) from None


def _reason(error: Exception) -> str:
    """What S3 or the system says of it, else the end of the first line: it begins with the request."""
    said = re.search(r'<Message>(.+?)</Message>|(?:message|error): "(.+?)"', str(error))
    return (said[1] or said[2]) if said else first_line(error).rpartition(" - ")[2].rstrip(": ")


def _place(path: Path) -> tuple[S3Store | GCSStore, str]:
    """The bucket that a copy is of, and its key there. Keys and place are the environment's, as for every S3 program."""
    scheme, bucket, *parts = path.relative_to(_copies()).parts
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _bucket(scheme, bucket, endpoint, region), "/".join(parts)


@lru_cache
def _bucket(scheme: str, bucket: str, endpoint: str | None, region: str | None) -> S3Store | GCSStore:
    options: Any = {"client_options": {"allow_http": True, **TIMEOUTS}, "retry_config": {"max_retries": ATTEMPTS - 1}}
    if scheme == "gs":
        return GCSStore(bucket, **options)
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            f"The value of AWS_ENDPOINT_URL is {without_password(endpoint)!r}, but must be http://HOST:PORT or https://HOST"
        )
    region = region or _region(bucket, endpoint)
    options["aws_endpoint_url_s3"] = endpoint or f"https://s3.{region}.amazonaws.com"  # a variable may be set and empty
    return S3Store(bucket, region=region, disable_bulk_delete=True, credential_provider=_profile(), **options)


def _region(bucket: str, endpoint: str | None) -> str:
    """Where a bucket is of which the environment does not say it; another company's store takes any region."""
    from pyarrow import fs

    return "us-east-1" if endpoint else str(fs.resolve_s3_region(bucket))


def _profile() -> Any:
    """What gives the keys in the user's files, which need boto3; None where the environment or the machine's role has them."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    if not os.environ.get("AWS_PROFILE") and not (home() / ".aws" / "credentials").exists():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise ConfigError(
            "A profile in ~/.aws needs boto3, which is not installed; install it, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from None
    return Boto3CredentialProvider()


def _stored(path: Path, recursive: bool) -> Sequence[Path]:
    """The files that the storage has at or in a place, as the copies that they would be."""
    bucket, key = _place(path)
    if key and _exists(bucket, key):
        return [path]
    objects, _ = _listed(path, recursive)
    # An empty one may be no file but the mark of a folder, as web consoles write them: its own key ends with a slash.
    return _inside(path, [found["path"] for found in objects if found["size"] or _exists(bucket, found["path"])])


def _exists(bucket: S3Store | GCSStore, key: str) -> bool:
    try:
        bucket.head(key)
    except FileNotFoundError:
        return False
    return True


def _inside(path: Path, keys: Sequence[str]) -> list[Path]:
    """The copies of what a storage lists in a folder; hidden ones are being written. Raises StorageError.

    A storage may answer anything: a name must mean one file, the same on every disk, and inside of the folder.
    """
    _, folder = _place(path)
    there: dict[str, str] = {}
    for key in keys:
        name = key.removeprefix(f"{folder}/") if folder else key
        parts = name.split("/")
        if (folder and name == key) or not all(map(_is_name, parts)) or there.setdefault(name.casefold(), name) != name:
            raise _misnamed(path, name)
    return [path / name for name in there.values() if not any(part.startswith(".") for part in name.split("/"))]


def _misnamed(path: Path, name: str) -> StorageError:
    return StorageError(
        f"{address(path)}: the storage lists the name {name[:LONGEST]!r}, but a name must lead to one place in its "
        f"folder: no `..`, no backslash or control character, at most {LONGEST} bytes, and none that differs from "
        "another in case alone; remove it there"
    )


def _is_name(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode(errors="replace")) <= LONGEST
    )


def _listed(path: Path, recursive: bool) -> tuple[Sequence[Any], Sequence[str]]:
    """The objects that the storage has in a folder and, without `recursive`, the folders in it. Raises StorageError."""
    bucket, key = _place(path)
    try:
        if recursive:
            return [found for some in bucket.list(key) for found in some], ()
        listed = bucket.list_with_delimiter(key)
        return listed["objects"], listed["common_prefixes"]
    except InvalidPathError as error:
        name = re.search(r'Path "(.*?)"', str(error), re.DOTALL)
        raise _misnamed(path, name[1].removeprefix(f"{key}/") if name else first_line(error)) from None


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
    bucket, key = _place(file)
    answer = bucket.get(key)
    with atomic_path(file) as part, part.open("wb") as target:
        for piece in answer.stream(min_chunk_size=PIECE):
            target.write(piece)
    _in_storage[file] = _version(file)


def _upload(file: Path) -> None:
    bucket, key = _place(file)
    bucket.put(key, file, max_concurrency=PARTS)


def _remove(file: Path) -> None:
    bucket, key = _place(file)
    with suppress(FileNotFoundError):
        bucket.delete(key)
