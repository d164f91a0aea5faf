"""Checks before a search with a program starts: its command exists and is the one that the search began with."""

import hashlib
import re
import shlex
import shutil
from pathlib import Path

from gpt2core.errors import ConfigError, UserError
from searches.deciding.comparing import Judges
from searches.running.ledger import Ledger
from trainables.programs.run import PLACEHOLDER, Program

SHELL = re.compile(r"\d?[<>&|;]+(&\d)?")  # a word that only a shell understands


def check_program(program: Program) -> None:
    """Raise ConfigError if the command, its script or a file to link does not exist, or if the command needs a shell."""
    first, *others = shlex.split(program.command)
    shell = next((word for word in others if SHELL.fullmatch(word)), None)
    if shell is not None or (not _files(program, [first]) and shutil.which(first) is None):
        wrong = f"has {shell!r}" if shell is not None else f"begins with {first!r}"
        raise ConfigError(
            f"The command {wrong}, but must begin with a program that exists, followed by its words: no shell is used; for one, "
            "write sh -c '...'"
        )
    script = next(
        (word for word in others[:1] if Path(word).suffix in (".py", ".sh") and not PLACEHOLDER.search(word)), None
    )
    if script is not None and not _files(program, [script]):
        raise ConfigError(f"The command has {script!r}, but there is no such file in {program.folder}")
    names = [Path(name).name for name in program.links]
    for name in program.links:
        if not Path(name).name or names.count(Path(name).name) > 1:
            raise ConfigError(f"The value of `--link` is {name!r}, but must be a file or folder with a name of its own")
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
