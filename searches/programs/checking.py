"""Checks before a search with a program starts: its command exists and is the one that the search began with."""

import hashlib
import shlex
import shutil
from pathlib import Path

from gpt2core.errors import ConfigError, UserError
from searches.deciding.comparing import Judges
from searches.running.ledger import Ledger
from trainables.programs.run import Program


def check_program(program: Program) -> None:
    """Raise ConfigError if the command or a file to link does not exist."""
    first = shlex.split(program.command)[0]
    if not _files(program, [first]) and shutil.which(first) is None:
        raise ConfigError(f"The command begins with {first!r}, but must begin with a program that exists")
    for name in program.links:
        if not Path(program.folder, name).exists():
            raise ConfigError(
                f"The value of `--link` is {name!r}, but there is no such file or folder in {program.folder}"
            )


def record_program(program: Program, ledger: Ledger) -> None:
    """Record the digest of the command's files, once; raise UserError if they have changed since."""
    digest, recorded = program_digest(program), ledger.state.data
    if recorded and recorded["program"] != digest:
        raise UserError(
            f"The files of the command have changed since this search began: their digest is {digest[:12]}, but was "
            f"{recorded['program'][:12]}; restore them, or choose another --name"
        )
    if not recorded:
        judges = vars(Judges(on="program", texts=0, run={}))
        data = {"data": "as the program reads it", "program": digest}
        ledger.record({"event": "data", "data": data, "baselines": {}, "judges": judges})


def program_digest(program: Program) -> str:
    """Return the SHA-256 of the files that the command names, in its order."""
    digest = hashlib.sha256()
    for file in _files(program, shlex.split(program.command)):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _files(program: Program, words: list[str]) -> list[Path]:
    return [file for word in words if (file := Path(program.folder, word)).is_file()]
