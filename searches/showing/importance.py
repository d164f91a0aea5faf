"""Which of the searched keys decided the score: PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) over a summary's trials."""

import json
from typing import Any

from searches.running.ledger import COMPLETED, STOPPED

LEAST = 20  # trials: it compares the best tenth with all, and one trial is no tenth to compare


def importance(summary: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Return the share of each searched key, the largest first, and of how many trials; or nothing, and why.

    A trial that was stopped counts with its best score: leaving it out would hide what makes trials poor.
    """
    space = summary.get("space") or {}
    rows = [row for row in summary["trials"] if row["of"] is None and row["score"] is not None]
    rows = [row for row in rows if row["status"] in (COMPLETED, STOPPED) and space.keys() <= row["point"].keys()]
    if not space:
        return {}, "The searched keys were not recorded: there is nothing to weigh."
    if len(space) < 2:
        return {}, "One key was searched: there is nothing to weigh."
    if len(rows) < LEAST:
        return {}, f"Too few trials: {len(rows)} ended with a score, and {LEAST} are needed to tell the keys apart."
    if len({row["score"] for row in rows}) == 1:
        return {}, "All trials have the same score: no key made a difference."
    return _shares(space, rows, summary["direction"]), f"Over {len(rows)} trials, finished and stopped ones."


def _shares(space: dict[str, Any], rows: list[dict[str, Any]], direction: str) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if direction == "max" else "minimize")
    distributions = {key: _distribution(domain, [row["point"][key] for row in rows]) for key, domain in space.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={key: _value(space[key], row["point"][key]) for key in space},
                distributions=distributions,
                value=row["score"],
            )
            for row in rows
        ]
    )
    return dict(optuna.importance.get_param_importances(study))


def _distribution(domain: dict[str, Any], seen: list[Any]) -> Any:
    """The domain, made wide enough for a point that was given by hand."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain["kind"] == "choice":
        return CategoricalDistribution(list(dict.fromkeys(map(json.dumps, [*domain["values"], *seen]))))
    low, high = min(domain["low"], *seen), max(domain["high"], *seen)
    return FloatDistribution(low, high, log=domain["kind"] == "log-uniform")


def _value(domain: dict[str, Any], value: Any) -> Any:
    # A choice may hold anything that JSON can; as text, Optuna takes all of it.
    return json.dumps(value) if domain["kind"] == "choice" else float(value)
