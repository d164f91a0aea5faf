"""The folder of a job: its lock and its manifest."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gpt2core.distill.manifest import MANIFEST, ReportedRound, validated_rounds
from gpt2core.errors import DataError, UserError, shown
from gpt2core.files import lock, read_json, write_json
from gpt2core.lease import Lease, LeaseKeeper
from gpt2core.storage import address, fetch, is_copy, send

VERSION = 1  # of the manifest

#: Folders that this process has locked -> their lease, if they are in remote storage.
_HELD: dict[Path, LeaseKeeper | None] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other jobs; raise UserError if another job holds it. The lock ends with the process.

    A process may lock a folder again while it holds the lock.
    """
    if folder in _HELD:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None
    with file:
        try:
            lock(file)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another job writes to it; wait until it ends, or choose another --out"
            ) from None
        _HELD[folder] = _lease(folder, file) if is_copy(folder) else None
        try:
            yield
        finally:
            kept = _HELD.pop(folder)
            if kept is not None:
                kept.close()


def _lease(folder: Path, file: IO[str]) -> LeaseKeeper:
    """Lock a folder against jobs on other machines too; raise UserError if one holds it."""
    lease = Lease(folder / "owner.json", file, folder, lambda text: print(text, file=sys.stderr, flush=True))
    lease.claim(f"{address(folder)}: a job on another machine writes to it ({{}}); choose another --out")
    return LeaseKeeper(lease)


def check_lease(folder: Path) -> None:
    """Raise UserError if a job on another machine has taken the folder over."""
    kept = _HELD.get(folder)
    if kept is not None and kept.lost:
        raise UserError(
            f"{address(folder)}: a job on another machine has taken it over; resume this job when that one ends"
        )


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, without rounds if there is no file; raise UserError if it is damaged."""
    path = folder / MANIFEST
    fetch(path)
    if not path.exists():
        return {"version": VERSION, "rounds": []}
    try:
        values = read_json(path)
        version = values.get("version")
        rounds = validated_rounds(path, values, ReportedRound) if version == VERSION else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise UserError(f"{path}: is damaged; remove it, and run the same command again ({error})") from None
    if version != VERSION:
        raise UserError(f"{path}: its version is {shown(version)}, but must be {VERSION}; choose another --out")
    return {"version": version, "rounds": rounds}


def write_manifest(folder: Path, rounds: list[dict[str, Any]]) -> None:
    """Write the manifest; raise UserError if a job on another machine has taken the folder over."""
    check_lease(folder)
    write_json(folder / MANIFEST, {"version": VERSION, "rounds": rounds})
    send(folder / MANIFEST)
