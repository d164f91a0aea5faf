"""What a score is laid beside: trivial baselines, and the model as it is before any training."""

from dataclasses import asdict
from typing import Any

from gpt2core.builders import device
from gpt2core.errors import DivergedError
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import LanguageTask
from searches.question import Plan
from trainables.worker_cache import starting_model

TEXTS = 200  # of dev, at most, that the model before training is scored on
LARGEST = 2 * 10**8  # parameters of a model that a driver without a GPU scores


def baselines(plan: Plan, data: TaskData) -> dict[str, dict[str, Any]]:
    """Return for each baseline what it is, and its scores on dev by metric: mean and standard deviation over seeds."""
    task = TASKS[plan.task]
    found = {name: asdict(baseline) for name, baseline in task.baselines(data, "dev").items()}
    return found | _untrained(plan, data) if isinstance(task, LanguageTask) else found


def _untrained(plan: Plan, data: TaskData) -> dict[str, dict[str, Any]]:
    """The losses of the model that all trials start from; nothing where that would take this process long."""
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
