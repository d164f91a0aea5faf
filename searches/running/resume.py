"""The ledger of a search that begins or goes on: by the rule of `--resume`, of the same plan, wherever it lies now."""

from collections.abc import Callable
from pathlib import Path

from gpt2core.config import keys_that_decide
from gpt2core.errors import UserError
from gpt2core.storage import address, is_copy
from searches.question import Plan
from searches.running.ledger import Ledger
from searches.running.remote_ledger import refresh
from trainables.tracking import database_of


def open_ledger(folder: Path, plan: Plan, resume: str, say: Callable[[str], None]) -> Ledger:
    """Open the ledger of a search; raise UserError where `resume` or the earlier search forbids it."""
    refresh(folder)
    exists = (folder / "ledger.jsonl").exists()
    if resume == "must" and not exists:
        raise UserError(f"{address(folder)}: there is no search to go on with, but --resume is must")
    if resume == "never" and exists:
        raise UserError(f"{address(folder)}: there is a search already, and --resume is never; choose another --name")
    ledger = Ledger(folder / "ledger.jsonl", say=say)
    if ledger.state.digest is None:
        ledger.begin(plan.digest, plan.search.name, plan.seed)
    elif ledger.state.digest != plan.digest:
        ledger.close()
        raise UserError(
            f"{address(folder)}: the search there has another space or other settings; choose another --name, or the flags it had"
        )
    for trial in ledger.state.trials.values():  # its data may have been moved
        trial.run |= {key: plan.fixed[key] for key in keys_that_decide("place") if key in plan.fixed}
    return ledger


def separate_copy(plan: Plan, ledger: Ledger, folder: Path, uri: str, say: Callable[[str], None]) -> None:
    """Give a copy of a search runs of its own where the search that it was copied from has the same MLflow."""
    state, here = ledger.state, folder / "ledger.jsonl"
    former = Path(state.folder) / here.name
    own = database_of(uri)
    if is_copy(folder) or not state.folder or (own and own.is_relative_to(folder.parent.parent)):
        return
    if former.exists() and not former.samefile(here):
        say(f"This is a copy of the search in {former.parent}: in MLflow it has runs of its own")
        ledger.begin(state.digest, state.script, plan.seed)
