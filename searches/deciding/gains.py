"""The gain of each task of a run of several, relative to a separately tuned model."""

import math
from collections.abc import Mapping, Sequence

from gpt2core.metrics.metric import Metric
from gpt2core.tasks.multi import log_of
from searches.summary import GainRow, TrialRow

SEPARATE = "separate"  # the combination that tasks are compared with


def gains(scored: Sequence[TrialRow], objectives: Mapping[str, Metric]) -> list[GainRow]:
    """Return a row for each trial, in percent over the best score of each task among trials with separate models.

    `objectives` has the metric of each task. The gain of a task is that of its accuracy or of 1 / perplexity; their mean is
    geometric. Returns nothing without a trial of separate models.
    """
    known = [row for row in scored if all(metric.name in row.metrics for metric in objectives.values())]
    separate = [row for row in known if row.config.get("combination") == SEPARATE]
    if not separate:
        return []
    best = {task: max(_log(row, metric) for row in separate) for task, metric in objectives.items()}
    rows = []
    for row in known:
        logs = {task: _log(row, metric) - best[task] for task, metric in objectives.items()}
        percent = {task: 100 * math.expm1(value) for task, value in logs.items()}
        mean = 100 * math.expm1(sum(logs.values()) / len(logs))
        rows.append(GainRow(trial=row.id, tasks=percent, mean=mean, worst=min(percent.values())))
    return sorted(rows, key=lambda gain: -gain.mean)


def _log(row: TrialRow, metric: Metric) -> float:
    return log_of(metric, float(row.metrics[metric.name]))
