"""Searches to promote: a trial that is really trained, in a ledger that is really written, without Ray around it."""

import json
from pathlib import Path
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.pretrain_stage import run_data
from gpt2core.tasks import TASKS
from searches.__main__ import main
from searches.running.ledger import COMPLETED, Ledger
from tests.runs import status
from trainables.trial import TrialSpec, payloads

VERSIONS = {"torch": "9.9"}


def promote(storage: Path, name: str, *flags: str) -> int:
    """Run `gpt2-search promote` in this process; return its status."""
    return status(main, ["promote", name, "--storage", str(storage), *flags])


def searched(storage: Path, name: str, configs: dict[str, RunConfig]) -> Path:
    """Train a trial for each configuration, the first the reference, and write them down as a search does; return its folder."""
    folder = storage / "searches" / name
    first = next(iter(configs.values()))
    data = run_data(first)
    baselines = {key: vars(baseline) for key, baseline in TASKS[first.task].baselines(data, first, "dev").items()}
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.record({"event": "search", "digest": "0", "name": name, "seed": 1})
    described = {"data": data.describe(), "digest": data.corpus.digest}
    origin = data.corpus.origin.model_dump()
    ledger.record({"event": "data", "data": described, "origin": origin, "baselines": baselines})
    for trial, config in configs.items():
        origin = "reference" if config is first else "sampler"
        proposed = {"name": trial, "point": {"lr": config.lr}, "run": config.model_dump(), "origin": origin}
        ledger.record({"event": "proposed", "trial": proposed})
        for report in payloads(TrialSpec(name=trial, run=config, folder=str(folder / "trials" / trial))):
            ledger.record({"event": "report", "trial": trial, **report, "statistics": None, "judged": {}})
        ledger.record({"event": "ended", "trial": trial, "status": COMPLETED})
    ledger.close()
    return folder


def ended(folder: Path, trials: list[str], answer: dict[str, Any], test: dict[str, Any] | None = None) -> None:
    """Write the summary of a search that came to its end with these trials."""
    rows = [{"id": name, "status": COMPLETED} for name in trials]
    summary = {"question": "Which is best?", "trials": rows, "answer": answer, "versions": VERSIONS, "test": test}
    (folder / "summary.json").write_text(json.dumps(summary))


def python_blocks(card: str) -> list[str]:
    return [part.split("```")[0] for part in card.split("```python\n")[1:]]
