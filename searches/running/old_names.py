"""Names in ledgers and summaries of before their schema 2: `floors` are now `baselines`, what was `baseline` is `reference`."""

from typing import Any

NAMES = {"floors": "baselines", "baseline": "reference"}


def with_names_of_today(told: dict[str, Any]) -> dict[str, Any]:
    """An event of a ledger, or a summary, in the names of today, whichever it has."""
    told = {NAMES.get(key, key): value for key, value in told.items()}
    rows = told["trials"] if isinstance(told.get("trials"), list) else []
    for row in (told.get("trial"), told.get("best"), told.get("reference"), *rows):
        if isinstance(row, dict) and row.get("origin") == "baseline":
            row["origin"] = "reference"
    return told
