"""Cross-validation. A round has one sub-run for each fold of the training texts, and reports them as one run.

Each sub-run trains on all folds but one and is scored on that one, so each training text is scored once, by a model that has
not seen it. A sub-run has its own checkpoints, in `fold-1`, `fold-2` and so on, where `best` has its weights of the round's best
epoch. `best` of the round has those of the first sub-run.

Legend of counts: `P` outputs of each of the `K` sub-runs, `N` texts, `S` numbers of a text.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core import training
from gpt2core.checkpoints import resuming
from gpt2core.checkpoints.best import best_epoch
from gpt2core.checkpoints.reading import newest_resumable
from gpt2core.checkpoints.saving import Pace, keep_best_of, rewrite_history
from gpt2core.config import RunConfig
from gpt2core.memory import MOMENTS, WEIGHT
from gpt2core.metrics.losses import perplexity
from gpt2core.metrics.metric import Metric
from gpt2core.model import GPT2
from gpt2core.steps import Events, Outcome, Step, advance, take_steps
from gpt2core.tasks import TASKS, Evaluation, TaskData
from gpt2core.tasks.base import measured, objective_of
from gpt2core.training import EpochReport, is_best
from gpt2core.workers import ALONE, Workers

#: Returns the model that a run starts from. Sub-runs start from different ones if a first stage trains on the run's texts.
Start = Callable[[RunConfig], GPT2]

SUMMED = ("train_seconds", "eval_seconds")  # summed over the sub-runs; other metrics are averaged


def train(
    config: RunConfig,
    start: Start,
    data: TaskData,
    *,
    folder: Path | None = None,
    workers: Workers = ALONE,
    checkpoint_minutes: float = 0.0,
) -> Iterator[EpochReport]:
    """Train a run, or all sub-runs of a round, and yield a report after each epoch; raise as `training.train` does."""
    yield from take_steps(
        loop(config, start, data, folder=folder, workers=workers, checkpoint_minutes=checkpoint_minutes)
    )


def loop(
    config: RunConfig,
    start: Start,
    data: TaskData,
    *,
    folder: Path | None,
    workers: Workers = ALONE,
    preempted: Callable[[], bool] = lambda: False,
    until: int | None = None,
    checkpoint_minutes: float = 0.0,
) -> Events[EpochReport]:
    """Yield reports as `train`, but request the steps. In a round, all sub-runs finish an epoch before any starts the next.

    See `training.loop` for `preempted` and `until`, and `Pace` for `checkpoint_minutes`. Raises ConfigError for more
    folds than distinct training texts.
    """
    pace, last = Pace(checkpoint_minutes), config.epochs if folder and training.scored_at_end(config) else None
    loop_of = partial(training.loop, data=data, workers=workers, preempted=preempted, until=until, pace=pace)
    if not config.is_round:
        yield from training.with_best(loop_of(config, start(config), folder=folder), last)
        return
    metrics = TASKS[config.task].metrics
    objective = objective_of(TASKS[config.task], config)

    history: list[dict[str, Any]] = []

    def sub_run(part: RunConfig) -> Events[EpochReport]:  # a generator, so that its model is loaded when it starts
        own = folder and _folder(folder, part)
        yield from loop_of(part, start(part), folder=own, joint_best=lambda: best_epoch(history))

    def next_reports() -> Generator[Step, Outcome, EpochReport | None]:
        """Return the joint report of all sub-runs, or None at their end."""
        reports = []
        for run in runs:
            reports.append((yield from _next_report(run)))
        known = [report for report in reports if report is not None]
        return join_reports(config, known, metrics) if len(known) == len(runs) else None

    runs = [sub_run(part) for part in config.sub_runs]
    writes = folder if workers.rank == 0 else None
    while (joint := (yield from next_reports())) is not None:
        best = is_best(history, joint.metrics, objective)
        history.append(_record(joint) | {"best": best})
        if best and writes:
            _keep_best(writes, config, history)
        if joint.epoch == last and (whole := (yield from next_reports())):
            history[whole.epoch - 1] |= _record(whole)
            if writes:
                rewrite_history(writes, config.sub_runs[0], history)
            joint = training.joined(joint, whole)
        yield joint


def _record(joint: EpochReport) -> dict[str, Any]:
    """Return the record of an epoch of a round."""
    return {"epoch": joint.epoch, "step": joint.step, "metrics": joint.metrics, **joint.origins}


def _keep_best(folder: Path, config: RunConfig, history: list[dict[str, Any]]) -> None:
    """Keep the weights of the last epoch in `history` in each sub-run's `best`, and those of the first sub-run in the round's."""
    for part in config.sub_runs:
        keep_best_of(_folder(folder, part), _folder(folder, part), part, history)
    first, *_ = config.sub_runs
    keep_best_of(_folder(folder, first), folder, first, history)


def adopt(source: Path, target: Path, config: RunConfig) -> None:
    """Let a run of `config` resume from the newest whole checkpoints of another run; raise as `resuming.adopt`."""
    if not config.is_round:
        resuming.adopt(source, target, config)
        return
    first, *_ = config.sub_runs
    most = min(newest_resumable(_folder(source, part)) for part in config.sub_runs)
    resuming.adopt_best(source, target, first, most=most)
    for part in config.sub_runs:
        resuming.adopt(_folder(source, part), _folder(target, part), part, most=most)


def _folder(folder: Path, part: RunConfig) -> Path:
    return folder / f"fold-{part.fold}"


def _next_report(run: Events[EpochReport]) -> Generator[Step, Outcome, EpochReport | None]:
    """Request the steps of a sub-run up to its next report; return the report, or None at the end."""
    event = advance(run, None)
    while isinstance(event, Step):
        event = advance(run, (yield event))
    return event


def join_reports(config: RunConfig, reports: Sequence[EpochReport], metrics: Mapping[str, Metric]) -> EpochReport:
    """Join the reports of all sub-runs on one epoch, in the order of the folds. Metrics are computed from the joint counts."""
    evaluations = [report.evaluation for report in reports]
    evaluation = _evaluation(evaluations, metrics, by_fold=config.scored_on == "folds")
    judged = [report.judged for report in reports if report.judged is not None]
    seconds: Counter[str] = Counter()
    for report in reports:
        seconds.update(report.seconds)
    return EpochReport(
        epoch=reports[0].epoch,
        step=sum(report.step for report in reports),
        metrics=_numbers([r.metrics for r in reports], measured(metrics, evaluation.statistics, "dev")),
        evaluation=evaluation,
        judged=_evaluation(judged, metrics, by_fold=config.scored_on == "dev") if len(judged) == len(reports) else None,
        origins=reports[0].origins,
        notes=list(chain.from_iterable(report.notes for report in reports)),
        seconds=dict(seconds),
    )


def _evaluation(parts: Sequence[Evaluation], metrics: Mapping[str, Metric], *, by_fold: bool) -> Evaluation:
    """Join the scores of all sub-runs: `by_fold` as scores on different texts, otherwise as outputs for the same texts.

    For the same texts, a score may be that of the first sub-run only, see `training`.
    """
    arrays = {
        name: [part.statistics[name].astype(np.float64) for part in parts if name in part.statistics]
        for name in parts[0].statistics
    }
    # By fold (P, N_k, S) to (P, N_1 + ... + N_K, S), otherwise (P, N, S) to (K P, N, S).
    statistics = {
        name: np.concatenate(values, axis=1 if by_fold else 0)
        for name, values in arrays.items()
        if not by_fold or len(values) == len(parts)
    }
    return Evaluation(
        metrics=_mean([part.metrics for part in parts], measured(metrics, statistics, "dev")),
        statistics=statistics,
        samples=list(chain.from_iterable(part.samples for part in parts)) if by_fold else parts[0].samples,
        tables={
            name: np.sum([part.tables[name] for part in parts], axis=0).tolist()
            for name in parts[0].tables
            if all(name in part.tables for part in parts)
        },
    )


def _mean(parts: Sequence[Mapping[str, float]], joint: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics in `joint`, and means of all other numbers of the first part except the intervals of the former."""
    intervals = {f"{name}_{end}" for name in joint for end in ("low", "high")}
    values = {name: [part[name] for part in parts if name in part] for name in parts[0] if name not in intervals}
    return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()} | dict(joint)


def _numbers(parts: Sequence[Mapping[str, float]], joint: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of an epoch of all sub-runs. Seconds are summed, and so is memory, since all are in memory at once."""
    metrics = _mean(parts, joint)
    metrics |= {name: metrics[name] * len(parts) for name in SUMMED if name in metrics}
    if "tokens_per_second" in metrics:
        tokens = math.fsum(part["tokens_per_second"] * part["train_seconds"] for part in parts)
        metrics["tokens_per_second"] = tokens / metrics["train_seconds"]
    if "train_perplexity" in metrics:
        metrics["train_perplexity"] = perplexity(metrics["train_loss"])
    if "gpu_memory_gb" in metrics:
        metrics["gpu_memory_gb"] = max(part["gpu_memory_gb"] for part in parts)
    if "predicted_gpu_memory_gb" in metrics:
        beside = (len(parts) - 1) * metrics["trainable_parameters"]  # weights and moments of the sub-runs that wait
        metrics["predicted_gpu_memory_gb"] += (WEIGHT + MOMENTS) * beside / 1e9
    return metrics
