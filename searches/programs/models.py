"""A search of a program has no model folder: only the program knows its models."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2core.errors import UserError
from gpt2core.storage import address
from searches.formatting import point_text
from trainables.programs.run import ProgramRun
from trainables.runs import run_of


def check_has_model(values: Mapping[str, Any], search: Path, trial: str) -> None:
    """Raise UserError if a trial with these values is a run of a program; it has the settings and the command with them."""
    run = run_of(values)
    if isinstance(run, ProgramRun):
        command = shlex.join(run.argv(Path("out")))
        raise UserError(
            f"The search {search.name} is of a program, so it has no model folder. Trial {trial} has {point_text(run.values)}: "
            f"its files are in {address(search / 'trials' / trial)}, and this runs it again: {command}"
        )
