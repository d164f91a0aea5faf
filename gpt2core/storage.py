"""Remote storage with addresses such as `s3://bucket/folder`. Processes work on local files, and send and fetch them.

Each address has a *copy*, a folder in this machine's cache. Only this module distinguishes copies from other folders, which are
local or shared by all machines: for those, `send` and `fetch` do nothing.

`read` and `write` are for a single object that several machines write conditionally.
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
LONGEST = 200  # bytes of a name, so that it fits on every disk with a prefix
NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.=-]{{0,{LONGEST - 1}}}")  # of a bucket or a folder; excludes `..`
ENDPOINT = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?")
ATTEMPTS = 8  # of a request, with exponential backoff
AT_ONCE = 8  # parallel downloads
PIECE = 2**24  # bytes of a download that are in memory
PARTS = 4  # of a large file, 5 MiB each, uploaded in parallel; few, so that a slow line stays within TIMEOUTS
TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "1h"}  # `timeout` is for a whole file

Version = tuple[int, int]  # of a file: modification time in nanoseconds, and size
Tag = Any  # of an object's version, obstore's UpdateVersion

_in_storage: dict[Path, Version] = {}  # local files that are identical in the storage


def is_address(place: str) -> bool:
    """Return whether this is an address, not a path."""
    return "://" in place and not place.startswith("file://")


def local(place: str) -> Path:
    """Return the local path of a path or an address; raise ConfigError for an invalid address."""
    if not is_address(place):
        return Path(place.removeprefix("file://")).expanduser().absolute()
    scheme, _, rest = place.partition("://")
    parts = rest.rstrip("/").split("/")
    if scheme not in SCHEMES or not all(NAME.fullmatch(part) for part in parts):
        valid = " or ".join(f"{name}://BUCKET/FOLDER" for name in SCHEMES)
        raise ConfigError(
            f"The value of an address is {without_password(place)!r}, but must be {valid}, each of at most {LONGEST} letters, "
            "digits and _ . = -; endpoint and credentials come from the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID"
        )
    return _copies().joinpath(scheme, *parts)


def address(path: Path) -> str:
    """Return the address of a copy, or any other path unchanged, so that it is valid on every machine."""
    if not is_copy(path):
        return str(path)
    scheme, *parts = path.relative_to(_copies()).parts
    return f"{scheme}://{'/'.join(parts)}"


def is_copy(path: Path) -> bool:
    """Return whether this is the copy of an address."""
    return path.is_relative_to(_copies())


def fetch(path: Path, *, recursive: bool = True) -> None:
    """Mirror the remote file or folder: download it, and delete local files that it lacks. Raises StorageError.

    Without `recursive`, subfolders are skipped.
    """
    if not is_copy(path):
        return
    with _storage_errors("fetched", path), locked(path.with_name(f".{path.name}.lock")):
        remote = _download_all(path, recursive)
        for file in set(_local_files(path, recursive)) - set(remote):
            file.unlink()
            _in_storage.pop(file, None)


def send(path: Path, *, recursive: bool = True) -> None:
    """Make the storage mirror the local file or folder. Raises StorageError.

    Uploads follow the order in which files were written, and precede deletions, so a kill leaves an earlier local state.
    """
    if not is_copy(path):
        return
    with _storage_errors("sent", path):
        files = _local_files(path, recursive)
        for file, version in sorted(files.items(), key=lambda item: item[1]):
            if _in_storage.get(file) != version:
                _upload(file)
                _in_storage[file] = version
        for file in [sent for sent in list(_in_storage) if sent not in files]:
            if file != path and not (file.is_relative_to(path) if recursive else file.parent == path):
                continue
            _remove(file)
            del _in_storage[file]


def folders(path: Path) -> list[str]:
    """Return the names of the subfolders of a folder, for a copy those in the storage. Raises StorageError."""
    if not is_copy(path):
        return sorted(child.name for child in path.glob("*/"))
    with _storage_errors("listed", path):
        _, prefixes = _list(path, recursive=False)
        return sorted(folder.name for folder in _local_paths(path, prefixes))


def size(path: Path) -> int:
    """Return the bytes of all files in a folder, for a copy those in the storage. Raises StorageError."""
    if not is_copy(path):
        sizes: dict[tuple[int, int], int] = {}  # by file, since several names may link to one
        for file in path.rglob("*"):
            with suppress(FileNotFoundError):  # removed in the meantime
                status = file.stat()
                sizes[status.st_dev, status.st_ino] = status.st_size if file.is_file() else 0
        return sum(sizes.values())
    with _storage_errors("listed", path):
        objects, _ = _list(path, recursive=True)
        return sum(entry["size"] for entry in objects)


def remove(path: Path) -> None:
    """Remove a local file, for a copy also from the storage. Raises StorageError."""
    path.unlink(missing_ok=True)
    if is_copy(path):
        with _storage_errors("removed", path):
            _remove(path)
        _in_storage.pop(path, None)


class OvertakenError(StorageError):
    """A conditional write was refused, since the storage has a version of the object that the writer has not seen."""


def read(path: Path) -> tuple[bytes, Tag] | None:
    """Return the current object of a copy and its tag, or None if there is none. Raises StorageError."""
    bucket, key = _place(path)
    with _storage_errors("read", path):
        try:
            answer = bucket.get(key)
            return bytes(answer.bytes()), _tag(answer.meta)
        except FileNotFoundError:
            return None


def write(path: Path, data: bytes, over: Tag | None) -> Tag:
    """Write the object of a copy if the storage has its version `over`, or no object for None; return the new tag.

    Raises OvertakenError if the storage has another version, and StorageError.
    """
    bucket, key = _place(path)
    with _storage_errors("written", path):
        try:
            return _tag(bucket.put(key, data, mode=over or "create"))
        except (AlreadyExistsError, PreconditionError):
            raise OvertakenError(f"{address(path)}: another machine has written it in the meantime") from None
        except BaseError as error:
            if "501 Not Implemented" in str(error):
                raise _unconditional(path) from None
            raise


def check_conditions(path: Path) -> None:
    """Raise StorageError if the storage ignores the conditions of writes. It must have an object of the copy."""
    current = read(path)
    for wrong in (None, {"e_tag": '"0"', "version": "1"}):
        with suppress(OvertakenError):
            write(path, current[0] if current else b"", wrong)
            raise _unconditional(path)


def _unconditional(path: Path) -> StorageError:
    return StorageError(
        f"{address(path)}: the storage lacks conditional writes (If-None-Match, If-Match), without which two machines may own "
        "one folder; choose a store that has them, such as S3, Google Cloud Storage or MinIO, or a shared folder"
    )


def _tag(meta: Any) -> Tag:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _copies() -> Path:
    return cache_place().absolute() / "storage"


@contextmanager
def _storage_errors(done: str, path: Path) -> Iterator[None]:
    """Turn errors into StorageError, which names the address and the failed operation."""
    try:
        yield
    except (OSError, BaseError) as error:
        place = address(path)
        key = "GOOGLE_APPLICATION_CREDENTIALS" if place.startswith("gs:") else "AWS_ENDPOINT_URL"
        raise StorageError(f"{place}: cannot be {done} ({_reason(error)}); check {key} and your permissions") from None


def _reason(error: Exception) -> str:
    """Return the message of S3 or the system, or the end of the first line, which begins with the request."""
    message = re.search(r'<Message>(.+?)</Message>|(?:message|error): "(.+?)"', str(error))
    return (message[1] or message[2]) if message else first_line(error).rpartition(" - ")[2].rstrip(": ")


def _place(path: Path) -> tuple[S3Store | GCSStore, str]:
    """Return the bucket and the key of a copy. Endpoint and credentials come from the environment, as in other S3 tools."""
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
    if not region and not endpoint:
        from pyarrow import fs

        region = str(fs.resolve_s3_region(bucket))
    region = region or "us-east-1"  # stores other than AWS accept any region
    options["aws_endpoint_url_s3"] = endpoint or f"https://s3.{region}.amazonaws.com"  # overrides an empty variable
    credentials = _profile_credentials()
    return S3Store(bucket, region=region, disable_bulk_delete=True, credential_provider=credentials, **options)


def _profile_credentials() -> Any:
    """Return a provider of the keys in ~/.aws, which needs boto3; None if the environment or the machine's role has keys."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    if not os.environ.get("AWS_PROFILE") and not (home() / ".aws" / "credentials").exists():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise ConfigError(
            "A profile in ~/.aws needs boto3, which is not installed; or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    return Boto3CredentialProvider()


def _remote_files(path: Path, recursive: bool) -> Sequence[Path]:
    """Return the local paths of the files that the storage has for a file or folder."""
    bucket, key = _place(path)
    if key and _exists(bucket, key):
        return [path]
    objects, _ = _list(path, recursive)
    # An empty object may be the marker of a folder that a web console wrote: its key then ends with a slash.
    return _local_paths(path, [entry["path"] for entry in objects if entry["size"] or _exists(bucket, entry["path"])])


def _exists(bucket: S3Store | GCSStore, key: str) -> bool:
    try:
        bucket.head(key)
    except FileNotFoundError:
        return False
    return True


def _local_paths(path: Path, keys: Sequence[str]) -> list[Path]:
    """Return the local paths of keys in a folder, without hidden ones, which are being written. Raises StorageError.

    The storage is not trusted: each name must mean one file inside the folder, the same on every disk.
    """
    _, folder = _place(path)
    names: dict[str, str] = {}
    for key in keys:
        name = key.removeprefix(f"{folder}/") if folder else key
        parts = name.split("/")
        if (folder and name == key) or not all(map(_is_name, parts)) or names.setdefault(name.casefold(), name) != name:
            raise _invalid_name(path, name)
    return [path / name for name in names.values() if not any(part.startswith(".") for part in name.split("/"))]


def _invalid_name(path: Path, name: str) -> StorageError:
    return StorageError(
        f"{address(path)}: the storage lists the name {name[:LONGEST]!r}, but a name must not contain `..`, a backslash or a "
        f"control character, be longer than {LONGEST} bytes, or differ from another one only in case; remove it there"
    )


def _is_name(part: str) -> bool:
    is_short = len(part.encode(errors="replace")) <= LONGEST
    return is_short and part not in ("", ".", "..") and part.isprintable() and "\\" not in part


def _list(path: Path, recursive: bool) -> tuple[Sequence[Any], Sequence[str]]:
    """Return the objects in a remote folder and, without `recursive`, its subfolders. Raises StorageError."""
    bucket, key = _place(path)
    try:
        if recursive:
            return [entry for page in bucket.list(key) for entry in page], ()
        listed = bucket.list_with_delimiter(key)
        return listed["objects"], listed["common_prefixes"]
    except InvalidPathError as error:
        name = re.search(r'Path "(.*?)"', str(error), re.DOTALL)
        raise _invalid_name(path, name[1].removeprefix(f"{key}/") if name else first_line(error)) from None


def _local_files(path: Path, recursive: bool) -> dict[Path, Version]:
    """Return the local files of a file or folder, without hidden ones, which are being written."""
    pattern = "**/[!.]*" if recursive else "[!.]*"
    files = [path] if path.is_file() else [file for file in path.glob(pattern) if file.is_file()]
    hidden = {file for file in files if any(part.startswith(".") for part in file.relative_to(path).parts)}
    return {file: _version(file) for file in files if file not in hidden}


def _version(file: Path) -> Version:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _download_all(path: Path, recursive: bool, retries: int = ATTEMPTS) -> Sequence[Path]:
    """Download a file or folder and return its files; if some are removed in the meantime, start over."""
    files = _remote_files(path, recursive)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(_download, files))
    except FileNotFoundError:
        if not retries:
            raise
        return _download_all(path, recursive, retries - 1)
    return files


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
