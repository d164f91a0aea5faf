"""Open the ledger of a new or resumed search."""

from collections.abc import Callable
from pathlib import Path

from gpt2core.errors import UserError
from gpt2core.parts import require
from gpt2core.storage import address, is_copy
from searches.flags import imports_of
from searches.options import Options, parse
from searches.plan import Plan
from searches.programs.flags import parse_program
from searches.question import Search, search_of
from searches.result_files import LEDGER
from searches.running.ledger import Ledger, State, in_use, is_held, read_state
from searches.running.remote_ledger import refresh
from searches.search_file import stated_by
from trainables.tracking import database_of


def open_ledger(folder: Path, plan: Plan, resume: str, say: Callable[[str], None]) -> Ledger:
    """Open the ledger of a search; raise UserError if --resume forbids it, or an earlier search there has another plan."""
    _exists(folder, resume)
    ledger = Ledger(folder / LEDGER, say=say)
    if ledger.state.digest is None:
        ledger.begin(plan.digest, plan.search.name, plan.seed)
    try:
        _check_plan(folder, plan, ledger.state)
    except UserError:
        ledger.close()
        raise
    for trial in ledger.state.trials.values():  # the data may have moved
        trial.run |= plan.places
    return ledger


def earlier_state(folder: Path, plan: Plan, resume: str) -> State | None:
    """Return the state of the search that a plan would resume, None for a new search; raise UserError as `open_ledger` would."""
    if not _exists(folder, resume):
        return None
    path = folder / LEDGER
    if is_held(path):
        raise UserError(in_use(path))
    state = read_state(path)
    if state.digest is None:
        return None
    _check_plan(folder, plan, state)
    return state


def _exists(folder: Path, resume: str) -> bool:
    """Return whether there is a search in a folder; raise UserError if --resume forbids that."""
    refresh(folder)
    exists = (folder / LEDGER).exists()
    if resume == "must" and not exists:
        raise UserError(f"{address(folder)}: there is no search to resume, but --resume is must")
    if resume == "never" and exists:
        raise UserError(f"{address(folder)}: there is already a search, but --resume is never; choose another --name")
    return exists


def _check_plan(folder: Path, plan: Plan, state: State) -> None:
    if state.digest != plan.digest:
        raise UserError(
            f"{address(folder)}: the search there has another space or other settings; give another --name, "
            "or the flags of that search"
        )


def options_again(state: State, argv: list[str]) -> Options:
    """Return the options of a search that was started before, from its flags. Raises UserError."""
    if "command" in state.definition:
        return parse_program(argv, state.file)
    return parse(stated_search(state), argv)


def stated_search(state: State) -> Search:
    """Return the search of a ledger as it was stated at the last start. Raises UserError.

    It does not import the modules that the ledger names: the user may not know them.
    """
    require(imports_of(state.argv))
    return stated_by(state.definition, state.file) if state.definition else search_of(state.script)


def separate_copy(plan: Plan, ledger: Ledger, folder: Path, uri: str, say: Callable[[str], None]) -> None:
    """Give a copied search new MLflow runs if the original still exists and uses the same MLflow."""
    state, path = ledger.state, folder / LEDGER
    original = Path(state.folder) / path.name
    database = database_of(uri)
    if is_copy(folder) or not state.folder or (database and database.is_relative_to(folder.parent.parent)):
        return
    if original.exists() and not original.samefile(path):
        say(f"This is a copy of the search in {original.parent}: it gets MLflow runs of its own")
        ledger.begin(state.digest, state.script, plan.seed)
