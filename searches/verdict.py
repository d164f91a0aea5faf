"""What a search may claim: the winner against the baseline on fresh seeds, and both against the floors."""

from typing import Any

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.lookup import lookup
from gpt2core.metrics.bootstrap import paired
from gpt2core.tasks import TASKS
from searches.ledger import COMPLETED, DIVERGED, FAILED, OUT_OF_MEMORY, RUNNING, STOPPED, Ledger, Trial
from searches.question import Choice, Plan
from searches.searcher import finalists
from searches.words import count

LEVEL = 0.05  # a difference whose p is above this is not called one


def summarise(plan: Plan, ledger: Ledger, name: str, model: str, versions: dict[str, str]) -> dict[str, Any]:
    """Return what summary.json holds; the table on the screen is made from it and nothing else."""
    state, search = ledger.state, plan.search
    trials = [_row(trial, plan) for trial in state.trials.values()]
    scored = [row for row in trials if row["score"] is not None and row["of"] is None]
    sign = 1 if plan.direction == "max" else -1
    best = max(scored, key=lambda row: sign * row["score"], default=None)
    baseline = next((row for row in trials if row["origin"] == "baseline"), None)
    statuses = [trial.status for trial in state.of_search()]
    return {
        "search": name,
        "question": search.question,
        "objective": plan.objective,
        "direction": plan.direction,
        "model": model,
        "data": state.data,
        "trials": trials,
        "best": best,
        "baseline": baseline,
        "costs": list(plan.search.costs),
        "pareto": _pareto(scored, {plan.objective: sign, **dict.fromkeys(plan.search.costs, -1)}),
        "best_by": {
            key: _best_by(key, scored, sign)
            for key, domain in search.scientific.items()
            if key in plan.space and isinstance(domain, Choice)
        },
        "floors": state.floors,
        "verdict": _verdict(plan, ledger),
        "counts": {
            "trials": len(statuses),
            "completed": statuses.count(COMPLETED),
            "stopped": statuses.count(STOPPED),
            "failed": statuses.count(FAILED),
            "diverged": statuses.count(DIVERGED),
            "out_of_memory": statuses.count(OUT_OF_MEMORY),
            "unfinished": statuses.count(RUNNING),
            "replicates": len(trials) - len(statuses),
            "duplicates_avoided": state.duplicates,
        },
        "wall_seconds": round(state.seconds, 1),
        "versions": versions,
    }


def _row(trial: Trial, plan: Plan) -> dict[str, Any]:
    best = trial.best(plan.objective, plan.direction)
    return {
        "id": trial.name,
        "origin": trial.origin,
        "of": trial.of,
        "status": trial.status,
        "reason": trial.reason,
        "point": trial.point,
        "config": trial.run,
        "epochs": max(trial.reports, default=0),
        "best_epoch": best["epoch"] if best else None,
        "score": trial.score(plan.objective, plan.direction),
        "metrics": best["metrics"] if best else {},
        "data": best.get("data", {}) if best else {},
        "curve": [{"epoch": epoch, **report["metrics"]} for epoch, report in sorted(trial.reports.items())],
    }


def _pareto(scored: list[dict[str, Any]], signs: dict[str, int]) -> list[str]:
    """Names of the trials that no other trial beats in one of several metrics and equals in the rest; none for one metric."""
    known = [row for row in scored if all(metric in row["metrics"] for metric in signs)]
    values = {row["id"]: [sign * row["metrics"][metric] for metric, sign in signs.items()] for row in known}
    if len(signs) < 2:
        return []
    return [
        name
        for name, mine in values.items()
        if not any(other != mine and all(o >= m for o, m in zip(other, mine, strict=True)) for other in values.values())
    ]


def _best_by(key: str, scored: list[dict[str, Any]], sign: int) -> list[dict[str, Any]]:
    """For each value of a scientific key, the best score that any nuisance setting gave it."""
    scored = [row for row in scored if key in RunConfig.of(row["config"]).identity()]  # full tuning has no rank
    values: dict[Any, dict[str, Any]] = {}
    for row in sorted(scored, key=lambda row: sign * row["score"]):
        values[row["point"][key]] = row  # the last one, the best, stays
    tried = {value: sum(row["point"][key] == value for row in scored) for value in values}
    return [
        {"value": value, "trials": tried[value], "score": row["score"], "best_trial": row["id"]}
        for value, row in sorted(values.items(), key=lambda item: str(item[0]).zfill(12))
    ]


def _verdict(plan: Plan, ledger: Ledger) -> dict[str, Any]:
    names = finalists(ledger, plan)
    if not names:
        return {"winner": None, "text": "no winner: no trial beside the baseline has a score to compare"}
    challenger, baseline = (_statistics(plan, ledger, name) for name in names)
    if challenger is None or baseline is None:
        return {"winner": None, "text": "no significant winner: the finalists were not repeated with fresh seeds"}
    result = paired(challenger, baseline, lookup(TASKS, plan.task, "task").score, seed=plan.seed)
    better = result.estimate > 0 if plan.direction == "max" else result.estimate < 0
    winner = (names[0] if better else names[1]) if result.p_value < LEVEL else None
    head = f"trial {winner} wins" if winner else "no significant winner"
    seeds = count(plan.profile.replicates, "fresh training seed")
    texts = f"{count(challenger.shape[0], 'output')} of each of {challenger.shape[1]} examples"
    evidence = (
        f"trial {names[0]} against the baseline {names[1]} on {plan.objective}: difference {result.estimate:+.2f} "
        f"[{result.low:.2f}, {result.high:.2f}], p = {result.p_value:.3f}; {seeds} each, {texts}, paired bootstrap"
    )
    text = f"{head}. {evidence}."
    floor = _floor(plan, ledger, ledger.state.trials[names[0]].score(plan.objective, plan.direction))
    return {
        "winner": winner,
        "compared": names,
        "difference": result.estimate,
        "low": result.low,
        "high": result.high,
        "p_value": result.p_value,
        "text": f"{text} {floor}".strip(),
    }


def _statistics(plan: Plan, ledger: Ledger, name: str) -> np.ndarray | None:
    """The counts (seeds, examples, S) of a trial's replicates, each at its own best epoch."""
    best = [r.best(plan.objective, plan.direction) for r in ledger.state.replicates(name)]
    found = [np.asarray(report["statistics"]) for report in best if report and report["statistics"]]
    return np.concatenate(found) if found else None


def _floor(plan: Plan, ledger: Ledger, score: float | None) -> str:
    objective, sign = plan.objective, 1 if plan.direction == "max" else -1
    known = {floor["meaning"]: floor["scores"][objective][0] for floor in ledger.state.floors.values()}
    meaning, highest = max(known.items(), key=lambda item: sign * item[1], default=("", -sign * float("inf")))
    if score is None or sign * highest < sign * score:
        return ""
    return (
        f"Beware: even the best score, {score:.2f}, is no better than what no model is needed for "
        f"({meaning}: {highest:.2f})."
    )
