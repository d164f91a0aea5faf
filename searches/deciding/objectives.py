"""What a trial is worth: its objective, what it costs, and whether it keeps the limits."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from searches.running.ledger import COMPLETED, OUT_OF_MEMORY, STOPPED, Trial

if TYPE_CHECKING:
    from searches.question import Plan

MEMORY = ("gpu_memory_gb", "predicted_gpu_memory_gb")  # the first that a trial reports


def cost(trial: Trial, name: str, until: float = math.inf) -> float | None:
    """A cost of COSTS by the end of epoch `until`, or a metric at the best epoch so far; None where it was not reported."""
    reports = [report["metrics"] for epoch, report in trial.counted.items() if epoch <= until]
    match name:
        case "seconds":
            parts = [metrics.get(part, 0.0) for metrics in reports for part in ("train_seconds", "eval_seconds")]
            return sum(parts) or None
        case "memory_gb":
            found = [next((m[key] for key in MEMORY if key in m), None) for m in reports]
            return max((value for value in found if value is not None), default=None)
        case "parameters":
            name = "trainable_parameters"
    return next((float(metrics[name]) for metrics in reversed(reports) if name in metrics), None)


def values(trial: Trial, plan: "Plan", until: float = math.inf) -> tuple[float, ...] | None:
    """The objectives by the end of epoch `until`, the task's first, each so that small is good; None where one is missing."""
    score = trial.score(plan.objective, plan.direction, until)
    costs = [cost(trial, name, until) for name in plan.method.minimize]
    if score is None or any(value is None for value in costs):
        return None
    return (-score if plan.direction == "max" else score, *(float(value) for value in costs if value is not None))


def excesses(trial: Trial, plan: "Plan") -> dict[str, float]:
    """How far a trial is beyond each limit; 0 or less is allowed. The first limit is the memory of the machine."""
    found = {"out_of_memory": 1.0 if trial.status == OUT_OF_MEMORY else 0.0}
    for limit in plan.method.limits:
        value = _metric(trial, limit.metric, plan)
        found[str(limit)] = 1e9 if value is None else limit.excess(value)
    return found


def _metric(trial: Trial, name: str, plan: "Plan") -> float | None:
    best = trial.best(plan.objective, plan.direction)
    if best is not None and name in best["metrics"]:
        return float(best["metrics"][name])
    return cost(trial, name)


def feasible(trial: Trial, plan: "Plan") -> bool:
    """Whether a trial keeps all limits."""
    return all(excess <= 0 for excess in excesses(trial, plan).values())


def ranked(trials: Sequence[Trial], plan: "Plan") -> list[Trial]:
    """The trials that ended well, have a score and keep the limits, the best by the task's objective first."""
    sign = -1 if plan.direction == "max" else 1
    scored = [
        (sign * score, trial.name, trial)
        for trial in trials
        if trial.status in (COMPLETED, STOPPED)
        and (score := trial.score(plan.objective, plan.direction)) is not None
        and feasible(trial, plan)
    ]
    return [trial for *_, trial in sorted(scored, key=lambda entry: entry[:2])]
