"""Scores finished trials on the test split, as Ray tasks. Nothing else reads that split while a search runs."""

from collections.abc import Sequence
from typing import Any

from gpt2core.errors import UserError, first_line
from gpt2core.storage import fetch, local
from trainables.trial import RESTARTS, TrialSpec, check_data


def score_all(specs: Sequence[TrialSpec]) -> list[dict[str, Any]]:
    """Return metrics and counts of each trial's best epoch; raise UserError if scoring fails for any reason."""
    import ray

    resources = {"num_cpus": specs[0].cpus_per_worker, "num_gpus": specs[0].gpus_per_worker}
    task = ray.remote(max_retries=RESTARTS, **resources)(_score)
    try:
        return list(ray.get([task.remote(spec.to_dict()) for spec in specs]))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise UserError(
            f"The test split could not be scored ({type(cause).__name__}: {first_line(cause)}); the same command tries again"
        ) from None


def _score(values: dict[str, Any]) -> dict[str, Any]:
    import torch

    from gpt2core import checkpoints
    from gpt2core.builders import build_model, device
    from gpt2core.metrics import counts
    from gpt2core.tasks import TASKS
    from trainables import worker_cache

    spec = TrialSpec.from_dict(values)
    torch.set_num_threads(spec.cpus_per_worker)
    base, data = worker_cache.inputs(spec.run)
    check_data(spec, data)
    model = build_model(spec.run, base, device())
    folder = local(spec.folder)
    fetch(folder / checkpoints.BEST)
    checkpoints.load_best(folder, model, base)
    evaluation = TASKS[spec.run.task].evaluate(model.train(False).requires_grad_(False), data, spec.run, "test")
    return {"metrics": evaluation.metrics, "statistics": counts.to_json(evaluation.statistics)}
