"""Judges which of the study's printed figures our runs reproduce.

Reproduced: the printed model, learning rate, batch size, passes over the data and data set; at least LEAST runs on fresh seeds;
the printed value within the 95% t interval of their mean, widened by the metric's margin; and no trivial baseline that passes
too. All differences from the printed setting are listed, and a stand-in for the model or the data has its own mark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final

import numpy as np

from gpt2core.adapters import ADAPTERS
from gpt2core.config import RunConfig
from gpt2core.data.dividing import SMALL
from gpt2core.data.order import epoch_sizes
from gpt2core.describe import describe
from gpt2core.metrics.comparison import LEAST, Runs, mean_of
from gpt2core.metrics.intervals import Interval
from gpt2core.naming import words
from searches.deciding.study_claims import Summaries, has, stand_in
from searches.formatting import count, number, value_text
from searches.published import COMMON, SIZES, TABLES, Figure
from searches.running.ledger import COMPLETED, STOPPED
from searches.summary import Summary, TrialRow

REPRODUCED: Final = "reproduced"
DIFFERS: Final = "not reproduced"
FEW: Final = "too few runs"
NOT_TELLING: Final = "not telling"
STAND_IN: Final = "stand-in"
OTHER: Final = "other setting"
NOT_RUN: Final = "not run"
MARKS = (REPRODUCED, DIFFERS, FEW, NOT_TELLING, STAND_IN, OTHER, NOT_RUN)

NEAR = 0.01  # relative tolerance for numbers of texts and of passes
IN_PERCENT = ("accuracy", "chrf_whole")  # intervals are cut to 0 to 100
DIGITS = {"train_loss": 3, "parameters": 0}  # of metrics for which the search has none


@dataclass(frozen=True, kw_only=True)
class Line:
    """A printed figure and ours: the mean of `runs` runs with its interval."""

    table: str
    figure: Figure
    mark: str
    why: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    passes: float | None = None  # over the training texts
    baseline: float | None = None  # of the best trivial baseline
    baseline_words: str = ""
    digits: int = 2

    @property
    def label(self) -> str:
        """The study's row, with our number of passes if our training set grows from epoch to epoch."""
        shown = self.figure.search == "distillation" and self.passes is not None
        return f"{self.figure.label} (ours: {self.passes:.2f} passes)" if shown else self.figure.label

    @property
    def ours_text(self) -> str:
        """Our value, with its interval if it has one."""
        interval = "" if self.low is None else f" [{number(self.low, self.digits)}, {number(self.high, self.digits)}]"
        return number(self.ours, self.digits) + interval

    @property
    def baseline_text(self) -> str:
        """The best trivial baseline, with its meaning."""
        return "" if self.baseline is None else f"{number(self.baseline, self.digits)} ({self.baseline_words})"


def lines(tables: Iterable[str], summaries: Summaries) -> list[Line]:
    """Return each figure of `tables` with ours."""
    return [_line(table, figure, summaries) for table in tables for figure in TABLES[table]]


def _line(table: str, figure: Figure, summaries: Summaries) -> Line:
    blank = Line(table=table, figure=figure, mark=NOT_RUN)
    if figure.why_not:
        return replace(blank, why=figure.why_not)
    if figure.search == "describe":
        return _described(blank)
    summary = summaries[str(figure.search), figure.task]
    if isinstance(summary, str):
        return replace(blank, why=summary)
    return _on_test(blank, summary) if figure.split == "test" else _on_dev(blank, summary)


def _described(line: Line) -> Line:
    """Return counts, which need no training, and the study's estimate of memory."""
    figure = line.figure
    adapter = "full" if figure.point["adapter"] == "total" else figure.point["adapter"]
    config = RunConfig(model=figure.model, adapter=adapter, rank=figure.point["rank"])
    description = describe(config, "study" if adapter in ("lora", "freeze") else "plain")
    if figure.metric == "predicted_gpu_memory_gb":
        predicted = study_memory_gb(description["total_parameters"], description["trainable_parameters"])
        return replace(line, why="the study's estimate without activations, not measured on a GPU", ours=predicted)
    key = "total_parameters_with_pooler" if figure.point["adapter"] == "total" else "trainable_parameters"
    mark = REPRODUCED if description[key] == figure.value else DIFFERS
    return replace(line, mark=mark, ours=description[key], digits=0)


def study_memory_gb(total: int, trainable: int) -> float:
    """Return the study's estimate: float32 weights, gradients and AdamW moments of what trains, and 0.25 GB."""
    return (4 * total + 12 * trainable) / 1e9 + 0.25


def _on_dev(line: Line, summary: Summary) -> Line:
    figure = line.figure
    scored = [row for row in summary.trials if _scored(row, figure.metric)]
    trials = [row for row in scored if row.of is None and has(_values(row), figure.point)]
    if not trials:
        return replace(line, why="the search had no such trial, or it did not end well")
    chosen = min(trials, key=lambda row: (len(differences(figure, row)), row.id))
    again = [row for row in scored if row.of == chosen.id]
    as_printed = [row for row in again if not differences(figure, row)]
    is_as_printed = not differences(figure, chosen)
    runs = as_printed or ([chosen] if is_as_printed else again or [chosen])
    differing = differences(figure, again[0]) if again and not as_printed and is_as_printed else []
    mean = mean_of(Runs(scores=np.array([float(row.metrics[figure.metric]) for row in runs])))
    return _judged(line, summary, mean, runs, note=f"its fresh runs: {', '.join(differing)}" if differing else "")


def _values(row: TrialRow) -> dict[str, Any]:
    return {**row.config, **row.point}


def _scored(row: TrialRow, metric: str) -> bool:
    value = row.metrics.get(metric)
    return row.status in (COMPLETED, STOPPED) and value is not None and math.isfinite(value)


def _on_test(line: Line, summary: Summary) -> Line:
    """Return a figure of the test split, on which only finalists are scored, with --final-test or --confirm-on test."""
    figure, scores = line.figure, _test_scores(summary)
    if not scores:
        return replace(line, why="give --final-test")
    metric = summary.answer.metric.name
    if metric != figure.metric:
        return replace(line, why=f"the test split was scored by {metric}: give --objective {figure.metric}")
    by_name = {row.id: row for row in summary.trials}
    names = [name for name in scores if name in by_name and has(_values(by_name[name]), figure.point)]
    if not names:
        return replace(line, why="its setting was not scored on the test split")
    chosen = summary.answer.chosen
    name = chosen if chosen in names and not figure.point else names[0]
    again = [row for row in summary.trials if row.of == name and row.status in (COMPLETED, STOPPED)]
    return _judged(line, summary, scores[name], again or [by_name[name]])


def _test_scores(summary: Summary) -> dict[str, Interval]:
    """Return scores on the test split by trial."""
    if summary.judged_on == "test":
        return {
            row.trial: Interval(estimate=row.mean, low=row.low, high=row.high)
            for row in summary.answer.rows
            if row.runs and row.trial and row.mean is not None
        }
    scores = summary.test.scores if summary.test else {}
    return {name: Interval(**score.model_dump()) for name, score in scores.items()}


def _judged(line: Line, summary: Summary, mean: Interval, runs: Sequence[TrialRow], note: str = "") -> Line:
    """Return the line with our mean and its mark; `note` is added if there are too few runs."""
    figure, first, several = line.figure, runs[0], len(runs) > 1
    baseline, value = max(_baselines(figure, summary).items(), key=itemgetter(1), default=("", None))
    line = replace(
        line,
        ours=mean.estimate,
        low=_cut(figure.metric, mean.low) if several else None,
        high=_cut(figure.metric, mean.high) if several else None,
        runs=len(runs),
        passes=passes(first),
        digits=summary.digits(figure.metric, DIGITS.get(figure.metric, 2)),
        baseline=value,
        baseline_words=baseline,
    )
    with_pairs = figure.point.get("added_pairs") == "generated"
    instead = stand_in(figure.model, first.config, list(summary.pairs.values()) if with_pairs else [])
    differing = differences(figure, first)
    if instead:
        return replace(line, mark=STAND_IN, why="; ".join([instead, *differing]))
    if differing:
        return replace(line, mark=OTHER, why="; ".join(differing))
    if len(runs) < LEAST:
        why = f"{count(len(runs), 'run') if several else 'one run'}: at least {LEAST} are needed"
        return replace(line, mark=FEW, why="; ".join(filter(None, [why, note])))
    return _with_enough_runs(line, mean, summary)


def _cut(metric: str, end: float | None) -> float | None:
    return min(max(end, 0.0), 100.0) if end is not None and metric in IN_PERCENT else end


def _with_enough_runs(line: Line, mean: Interval, summary: Summary) -> Line:
    """Return the line with the mark of enough runs of the printed setting."""
    figure, margin = line.figure, _short(line.figure.margin)
    low, high = (mean.estimate if end is None else end for end in (mean.low, mean.high))

    def passes_too(value: float) -> bool:
        return low - figure.margin <= value <= high + figure.margin

    if not passes_too(figure.value):
        return replace(line, mark=DIFFERS, why=f"the printed value is more than {margin} outside the interval")
    passing = {
        meaning: value
        for meaning, value in _baselines(figure, summary).items()
        if passes_too(value) or abs(value - figure.value) <= figure.margin
    }
    if passing:
        shown = "; ".join(f"{value:.{line.digits}f}, {meaning}" for meaning, value in passing.items())
        return replace(line, mark=NOT_TELLING, why=f"a trivial baseline passes too: {shown}")
    return replace(line, mark=REPRODUCED)


def _short(value: float) -> str:
    """Return a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _baselines(figure: Figure, summary: Summary) -> dict[str, float]:
    """Return the trivial baselines' scores by their meaning. Larger is better for all printed metrics that they have."""
    rows = [row for row in summary.baselines.values() if figure.metric in row.scores]
    return {row.meaning: row.scores[figure.metric][0] for row in rows}


def differences(figure: Figure, row: TrialRow) -> list[str]:
    """Return, in words, how a run differs from the printed setting."""
    config = row.config
    differing = [
        f"ran with {words(key)} {_value(key, ours)}, not {_value(key, printed)}"
        for key, printed in {**COMMON, **figure.setup}.items()
        if key in config and not _same(ours := _ours(key, config), printed)
    ]
    return [*differing, *_texts(figure, row), *_passes(figure, row)]


def _ours(key: str, config: Mapping[str, Any]) -> Any:
    return ADAPTERS[str(config["adapter"])].block_spec(RunConfig.of(config)) if key == "blocks" else config[key]


def _value(key: str, value: Any) -> str:
    if value is None and key.endswith("_examples"):
        return "all"
    return value_text(value).replace("e-0", "e-")


def _same(ours: Any, printed: Any) -> bool:
    numbers = isinstance(ours, int | float) and isinstance(printed, int | float)
    return math.isclose(ours, printed) if numbers else bool(ours == printed)


def _texts(figure: Figure, row: TrialRow) -> list[str]:
    """Return how the texts that a run was trained and scored on differ from the printed ones."""
    config, (train, dev) = row.config, SIZES[figure.task]
    differing, trained = [], _training_texts(row)
    if config.get("folds", 1) > 1:
        differing.append(
            f"each run learned from {config['folds'] - 1} of {config['folds']} parts of the training texts"
        )
    elif config.get("train_examples"):
        differing.append(f"learned from a sample of {config['train_examples']:,} training texts")
    elif trained is not None and trained < (1 - NEAR) * train:
        differing.append(f"learned from {trained:,} training texts, not {train:,}")
    if config.get("dev_examples"):
        differing.append(f"scored on a sample of {config['dev_examples']:,} dev texts")
    elif config.get("dev_part") == "search" and dev >= SMALL:
        what = "scored on" if figure.split == "dev" else "its epoch chosen by"
        differing.append(f"{what} half of the dev texts (all of them: --confirm-on test)")
    return differing


def _training_texts(row: TrialRow) -> int | None:
    """Return the number of texts of a run's last epoch; None if the run ended early or does not train."""
    if not row.curve or row.epochs < row.config.get("epochs", 0):
        return None
    examples = row.curve[-1].get("train_examples")
    return None if examples is None else int(examples)


def _passes(figure: Figure, row: TrialRow) -> list[str]:
    ours = passes(row)
    if figure.passes is None or ours is None or math.isclose(ours, figure.passes, rel_tol=NEAR):
        return []
    return [f"made {_short(ours)} passes over the training texts, not {figure.passes:g}"]


def passes(row: TrialRow) -> float | None:
    """Return how often a run passed over all of its training texts; None if it does not train."""
    if not row.epochs or row.config.get("adapter") == "frozen":
        return None
    config = RunConfig.of(row.config)
    examples = _training_texts(row) or SIZES.get(config.task, (0, 0))[0]
    return sum(epoch_sizes(config, examples)[: row.epochs]) / examples if examples else None
