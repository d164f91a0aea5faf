"""How a search stands by what a storage behind an address has of it."""

from gpt2core.storage import local
from searches.running.ledger import State, read_state
from searches.running.remote_ledger import refresh


def stored(folder: str) -> State:
    """The state of the search in a folder of the storage; an empty one where there is none yet."""
    ledger = local(folder) / "ledger.jsonl"
    ledger.unlink(missing_ok=True)
    refresh(ledger.parent)
    return read_state(ledger) if ledger.exists() else State()


def reports(state: State) -> dict[tuple[str, int], float | None]:
    return {(trial.name, epoch): one.time for trial in state.trials.values() for epoch, one in trial.reports.items()}
