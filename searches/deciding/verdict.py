"""What a search may claim: the winner against the baseline on fresh seeds, and both against the floors."""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.lookup import lookup
from gpt2core.metrics.bootstrap import paired
from gpt2core.tasks import TASKS
from searches.deciding import final
from searches.deciding.method import COSTS
from searches.deciding.objectives import cost, feasible, ranked
from searches.deciding.stopping import dominates
from searches.deciding.strategy import finalists
from searches.question import Choice, Plan
from searches.running.budget import BUDGET
from searches.running.ledger import COMPLETED, DIVERGED, FAILED, OUT_OF_MEMORY, RUNNING, STOPPED, State, Trial
from searches.words import count

LEVEL = 0.05  # a difference whose p is above this is not called one


def summarise(plan: Plan, state: State, name: str, model: str, versions: dict[str, str]) -> dict[str, Any]:
    """Return what summary.json holds; the table on the screen is made from it and nothing else."""
    search = plan.search
    trials = [_row(trial, plan) for trial in state.trials.values()]
    by_name = {row["id"]: row for row in trials}
    scored = [row for row in trials if row["score"] is not None and row["of"] is None]
    sign = 1 if plan.direction == "max" else -1
    best = next((by_name[trial.name] for trial in ranked([*state.searched, *state.clones], plan)), None)
    costs = list(dict.fromkeys([*plan.search.costs, *plan.method.minimize]))
    verdict = _verdict(plan, state)
    allowed = [row for row in scored if row["feasible"]]
    baseline = next((row for row in trials if row["origin"] == "baseline"), None)
    statuses = [trial.status for trial in state.trials.values() if trial.of is None]
    return {
        "search": name,
        "script": search.name,
        "question": search.question,
        "objective": plan.objective,
        "direction": plan.direction,
        "model": model,
        "data": state.data,
        "trials": trials,
        "best": best,
        "baseline": baseline,
        "method": plan.method.to_dict(),
        "costs": costs,
        "pareto": pareto(allowed, {plan.objective: sign, **dict.fromkeys(costs, -1)}),
        "best_by": {
            key: _best_by(key, scored, sign)
            for key, domain in search.scientific.items()
            if key in plan.space and isinstance(domain, Choice)
        },
        "floors": state.floors,
        "verdict": verdict,
        "test": final.result(plan, state, verdict["winner"]),
        "counts": {
            "trials": len(statuses),
            "completed": statuses.count(COMPLETED),
            "stopped": statuses.count(STOPPED),
            "failed": statuses.count(FAILED),
            "out_of_memory": statuses.count(OUT_OF_MEMORY),
            "diverged": statuses.count(DIVERGED),
            "unfinished": statuses.count(RUNNING),
            "replicates": len(trials) - len(statuses),
            "duplicates_avoided": state.duplicates,
        },
        "wall_seconds": round(state.clock.wall, 1),
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
        "parent": trial.parent,
        "feasible": feasible(trial, plan),
        "point": trial.point,
        "config": trial.run,
        "epochs": max(trial.counted, default=0),
        "best_epoch": best["epoch"] if best else None,
        "score": trial.score(plan.objective, plan.direction),
        "metrics": {**(best["metrics"] if best else {}), **_costs(trial)},
        "data": best.get("data", {}) if best else {},
        "curve": [{"epoch": epoch, **report["metrics"]} for epoch, report in trial.counted.items()],
    }


def _costs(trial: Trial) -> dict[str, float]:
    found = {name: cost(trial, name) for name in COSTS}
    return {name: value for name, value in found.items() if value is not None}


def pareto(scored: list[dict[str, Any]], signs: dict[str, int]) -> list[str]:
    """Names of the trials that no other trial beats in one of several metrics and equals in the rest; none for one metric."""
    if len(signs) < 2:
        return []
    small_is_good = {
        row["id"]: tuple(-sign * row["metrics"].get(metric, math.nan) for metric, sign in signs.items())
        for row in scored
    }
    known = {name: vector for name, vector in small_is_good.items() if not any(map(math.isnan, vector))}
    front: dict[str, tuple[float, ...]] = {}
    for name, mine in sorted(known.items(), key=itemgetter(1)):  # none is dominated by one that comes later
        if not any(dominates(other, mine) for other in front.values()):
            front[name] = mine
    return [name for name in known if name in front]


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


def _verdict(plan: Plan, state: State) -> dict[str, Any]:
    """The best trials against the baseline on fresh seeds: the best of those that are surely better wins, else nobody.

    p-values are corrected for how many are compared (Holm 1979).
    """
    names = finalists(state, plan)
    if not names:
        return {"winner": None, "text": _no_score(plan, state)}
    *challengers, baseline = names
    found = {name: _statistics(plan, state, name) for name in names}
    if any(statistics is None for statistics in found.values()):
        return {"winner": None, "text": "no significant winner: the finalists were not repeated with fresh seeds"}
    compared = [_compare(plan, name, found[name], found[baseline]) for name in challengers]
    for row, p in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        row["p_value"] = p
    sign = 1 if plan.direction == "max" else -1
    surely = {row["trial"]: row["p_value"] < LEVEL and sign * row["difference"] for row in compared}  # False: not sure
    best = max(compared, key=lambda row: (surely[row["trial"]] > 0, sign * row["difference"]))
    winner = best["trial"] if surely[best["trial"]] > 0 else None
    if all(difference < 0 for difference in surely.values()):
        winner = baseline
    head = f"trial {winner} wins" if winner else "no significant winner"
    rows = next(statistics for statistics in found.values() if statistics is not None)
    seeds = count(min(len(_counted(state, name)) for name in names), "fresh training seed")
    evidence = (
        f"trial {best['trial']} against the baseline {baseline} on {plan.objective}: difference {best['difference']:+.2f} "
        f"[{best['low']:.2f}, {best['high']:.2f}], p = {best['p_value']:.3f}"
        + (f" (Holm, {len(compared)} compared)" if len(compared) > 1 else "")
        + f"; {seeds} each, {count(rows.shape[0], 'output')} of each of "
        f"{rows.shape[1]} examples, paired bootstrap"
    )
    floor = _floor(plan, state, state.trials[best["trial"]].score(plan.objective, plan.direction))
    return {
        "winner": winner,
        "compared": names,
        **{key: best[key] for key in ("difference", "low", "high", "p_value")},
        "comparisons": compared,
        "text": f"{head}. {evidence}. {floor}".strip(),
    }


def _no_score(plan: Plan, state: State) -> str:
    limits = " and ".join(map(str, plan.method.limits))
    if limits and not any(feasible(trial, plan) for trial in state.searched):
        return f"no winner: no trial keeps {limits}"
    return "no winner: no trial beside the baseline has a score to compare"


def _compare(plan: Plan, name: str, challenger: np.ndarray | None, baseline: np.ndarray | None) -> dict[str, Any]:
    assert challenger is not None
    assert baseline is not None
    result = paired(challenger, baseline, lookup(TASKS, plan.task, "task").score, seed=plan.seed)
    values = {"difference": result.estimate, "low": result.low, "high": result.high, "p_value": result.p_value}
    return {"trial": name, **values}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their own order (Holm 1979): the family-wise error stays at the level."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _counted(state: State, name: str) -> list[Trial]:
    """A trial's replicates, but those that a budget cut short: they did not run on equal terms."""
    return [repeat for repeat in state.replicates(name) if repeat.reason != BUDGET]


def _statistics(plan: Plan, state: State, name: str) -> np.ndarray | None:
    """The counts (seeds, examples, S) of a trial's replicates, each at its own best epoch."""
    best = [r.best(plan.objective, plan.direction) for r in _counted(state, name)]
    found = [np.asarray(report["statistics"]) for report in best if report and report["statistics"]]
    return np.concatenate(found) if found else None


def _floor(plan: Plan, state: State, score: float | None) -> str:
    objective, sign = plan.objective, 1 if plan.direction == "max" else -1
    known = {floor["meaning"]: floor["scores"][objective][0] for floor in state.floors.values()}
    meaning, highest = max(known.items(), key=lambda item: sign * item[1], default=("", -sign * float("inf")))
    if score is None or sign * highest < sign * score:
        return ""
    return (
        f"Beware: even the best score, {score:.2f}, is no better than what no model is needed for "
        f"({meaning}: {highest:.2f})."
    )
