"""Scores to compare trials with: trivial baselines, and the model before any training."""

from dataclasses import asdict
from typing import Any

from gpt2core.builders import device
from gpt2core.errors import DivergedError
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import LanguageTask
from searches.plan import Plan
from trainables.worker_cache import starting_model

TEXTS = 200  # dev texts, at most, on which the untrained model is scored
LARGEST = 2 * 10**8  # parameters, at most, of an untrained model that is scored without a GPU


def baselines(plan: Plan, data: TaskData) -> dict[str, dict[str, Any]]:
    """Return each baseline's meaning, and its dev scores by metric: mean and standard deviation over seeds."""
    task, run = TASKS[plan.task], plan.config(plan.search.reference)
    trivial = {name: asdict(baseline) for name, baseline in task.baselines(data, run, "dev").items()}
    return trivial | _untrained(plan, data) if isinstance(task, LanguageTask) else trivial


def _untrained(plan: Plan, data: TaskData) -> dict[str, dict[str, Any]]:
    """Return the losses of the model that all trials start from; nothing if that would take long."""
    run = plan.config(plan.search.reference).but(decode_seeds=0)
    model, part = starting_model(run.model, None), data.with_dev(TEXTS)
    if device().type == "cpu" and sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        return {}
    try:
        scores = TASKS[plan.task].evaluate(model.to(device()), part, run, "dev").metrics
    except DivergedError:
        return {}
    known = {name: (scores[name], 0.0) for name in plan.metrics if name in scores}
    return {"untrained": {"meaning": f"{run.model} before any training", "scores": known}}
