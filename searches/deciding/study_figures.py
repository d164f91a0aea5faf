"""Which printed figures our runs reproduce.

Reproduced: the printed model, learning rate, batch size, passes over the data and data set; at least LEAST runs of that very
point, on fresh seeds; the printed value within the 95% t interval of their mean plus the metric's margin; and no trivial
baseline that passes too. Whatever differs is listed, and a stand-in of the model or the data has a mark of its own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from gpt2core.adapters import ADAPTERS
from gpt2core.builders import epoch_sizes
from gpt2core.config import RunConfig
from gpt2core.data.dividing import SMALL
from gpt2core.describe import describe
from gpt2core.metrics.comparison import LEAST, Runs, mean_of
from gpt2core.metrics.intervals import Interval
from searches.deciding.study_claims import Summaries, has, stand_in
from searches.formatting import count, value_text
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

NEAR = 0.01  # a share by which a number of texts or of passes may differ
IN_PERCENT = ("accuracy", "chrf_whole")  # no value is above 100, so no interval is
DIGITS = {"train_loss": 3, "parameters": 0}  # of our values, where the search says nothing


@dataclass(frozen=True, kw_only=True)
class Line:
    """One printed figure beside ours: the mean of `runs` runs and its interval."""

    table: str
    figure: Figure
    mark: str
    why: str = ""
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    passes: float | None = None  # over the training texts
    baseline: float | None = None  # the trivial one with the best score
    baseline_words: str = ""
    digits: int = 2

    @property
    def label(self) -> str:
        """The row of the study; where our training set grows from epoch to epoch, with how many passes there were."""
        shown = self.figure.search == "distillation" and self.passes is not None
        return f"{self.figure.label} (ours: {self.passes:.2f} passes)" if shown else self.figure.label

    @property
    def ours_text(self) -> str:
        """Our value, with its interval where there is one."""
        if self.ours is None:
            return ""
        value = self._number(self.ours)
        return value if self.low is None else f"{value} [{self._number(self.low)}, {self._number(self.high)}]"

    @property
    def baseline_text(self) -> str:
        """The best trivial baseline, and what it is."""
        return "" if self.baseline is None else f"{self._number(self.baseline)} ({self.baseline_words})"

    def _number(self, value: float | None) -> str:
        return "" if value is None else f"{value:,.{self.digits}f}"


def lines(tables: Iterable[str], summaries: Summaries) -> list[Line]:
    """Lay every figure of `tables` beside ours; a search that could not run is a reason in place of a summary."""
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
    """Counts need no training; memory is predicted by a formula."""
    figure = line.figure
    adapter = "full" if figure.point["adapter"] == "total" else figure.point["adapter"]
    config = RunConfig(model=figure.model, adapter=adapter, rank=figure.point["rank"])
    found = describe(config, "study" if adapter in ("lora", "freeze") else "plain")
    if figure.metric == "predicted_gpu_memory_gb":
        predicted = found["chosen"]["predicted_gpu_memory_gb"]
        return replace(line, why="predicted by a formula, not measured on a GPU", ours=predicted)
    key = "total_parameters_with_pooler" if figure.point["adapter"] == "total" else "trainable_parameters"
    mark = REPRODUCED if found[key] == figure.value else DIFFERS
    return replace(line, mark=mark, ours=found[key], digits=0)


# the dev split


def _on_dev(line: Line, summary: Summary) -> Line:
    figure = line.figure
    trials = [row for row in summary.trials if row.of is None and has(_values(row), figure.point)]
    trials = [row for row in trials if _scored(row, figure.metric)]
    if not trials:
        return replace(line, why="its trial did not end well, or was not among the trials")
    chosen = min(trials, key=lambda row: (len(differences(figure, row)), row.id))
    again = [row for row in summary.trials if row.of == chosen.id and _scored(row, figure.metric)]
    as_printed = [row for row in again if not differences(figure, row)]
    is_as_printed = not differences(figure, chosen)
    runs = as_printed or ([chosen] if is_as_printed else again or [chosen])
    left = differences(figure, again[0]) if again and not as_printed and is_as_printed else []
    mean = mean_of(Runs(scores=np.array([float(row.metrics[figure.metric]) for row in runs])))
    return _judged(line, summary, mean, runs, note=f"its fresh runs: {', '.join(left)}" if left else "")


def _values(row: TrialRow) -> dict[str, Any]:
    return {**row.config, **row.point}


def _scored(row: TrialRow, metric: str) -> bool:
    value = row.metrics.get(metric)
    return row.status in (COMPLETED, STOPPED) and value is not None and math.isfinite(value)


# the test split


def _on_test(line: Line, summary: Summary) -> Line:
    """A figure of the test split, which is scored for the finalists alone: with --final-test, or --confirm-on test."""
    figure, scores = line.figure, _test_scores(summary)
    if not scores:
        return replace(line, why="give --final-test")
    metric = summary.answer.metric.name
    if metric != figure.metric:
        return replace(line, why=f"the test split was scored by {metric}: give --objective {figure.metric}")
    by_name = {row.id: row for row in summary.trials}
    names = [name for name in scores if name in by_name and has(_values(by_name[name]), figure.point)]
    if not names:
        return replace(line, why="its setting was not among those that were scored on the test split")
    chosen = summary.answer.chosen
    name = chosen if chosen in names and not figure.point else names[0]
    again = [row for row in summary.trials if row.of == name and row.status in (COMPLETED, STOPPED)]
    return _judged(line, summary, scores[name], again or [by_name[name]])


def _test_scores(summary: Summary) -> dict[str, Interval]:
    """Scores on the test split by trial."""
    if summary.judged_on == "test":
        rows = [row for row in summary.answer.rows if row.runs]
        known = [(row.trial, row.mean, row.low, row.high) for row in rows]
        return {
            trial: Interval(estimate=mean, low=low, high=high)
            for trial, mean, low, high in known
            if trial and mean is not None
        }
    scores = summary.test.scores if summary.test else {}
    return {name: Interval(estimate=one.estimate, low=one.low, high=one.high) for name, one in scores.items()}


# the mark


def _judged(line: Line, summary: Summary, mean: Interval, runs: Sequence[TrialRow], note: str = "") -> Line:
    figure, first = line.figure, runs[0]
    several = len(runs) > 1
    line = replace(
        line,
        ours=mean.estimate,
        low=_cut(figure.metric, mean.low) if several else None,
        high=_cut(figure.metric, mean.high) if several else None,
        runs=len(runs),
        passes=passes(first),
        digits=summary.digits(figure.metric, DIGITS.get(figure.metric, 2)),
        **_baseline(figure, summary),
    )
    differs, instead = differences(figure, first), _stand_in(figure, first, summary)
    if instead:
        return replace(line, mark=STAND_IN, why="; ".join([instead, *differs]))
    if differs:
        return replace(line, mark=OTHER, why="; ".join(differs))
    if len(runs) < LEAST:
        why = f"{'one run' if len(runs) == 1 else count(len(runs), 'run')}: at least {LEAST} are needed"
        return replace(line, mark=FEW, why="; ".join(filter(None, [why, note])))
    return _with_enough(line, mean, summary)


def _cut(metric: str, end: float | None) -> float | None:
    return min(max(end, 0.0), 100.0) if end is not None and metric in IN_PERCENT else end


def _with_enough(line: Line, mean: Interval, summary: Summary) -> Line:
    """The mark of enough runs with the printed setting."""
    figure = line.figure
    low, high = (mean.estimate if end is None else end for end in (mean.low, mean.high))

    def passes_too(value: float) -> bool:
        return low - figure.margin <= value <= high + figure.margin

    if not passes_too(figure.value):
        return replace(line, mark=DIFFERS, why=f"the printed value is farther than {_margin(figure)} from the interval")
    passing = {
        words: value
        for words, value in _baselines(figure, summary).items()
        if passes_too(value) or abs(value - figure.value) <= figure.margin
    }
    if passing:
        told = "; ".join(f"{value:.{line.digits}f}, {words}" for words, value in passing.items())
        return replace(line, mark=NOT_TELLING, why=f"a trivial baseline passes too: {told}")
    return replace(line, mark=REPRODUCED)


def _margin(figure: Figure) -> str:
    return f"{figure.margin:.2f}".rstrip("0").rstrip(".")


def _baselines(figure: Figure, summary: Summary) -> dict[str, float]:
    """What the trivial baselines score, by what they are."""
    rows = [row for row in summary.baselines.values() if figure.metric in row.scores]
    return {row.meaning: row.scores[figure.metric][0] for row in rows}


def _baseline(figure: Figure, summary: Summary) -> dict[str, Any]:
    """The best of them; all metrics that they have and that are printed are better where they are larger."""
    words, value = max(_baselines(figure, summary).items(), key=lambda item: item[1], default=("", None))
    return {"baseline": value, "baseline_words": words}


# what differs from the printed setting


def differences(figure: Figure, row: TrialRow) -> list[str]:
    """In words, each value of a run that is not as printed."""
    config = row.config
    asked = {**COMMON, **figure.setup}
    said = [
        f"ran with {key.replace('_', ' ')} {_value(key, ours)}, not {_value(key, printed)}"
        for key, printed in asked.items()
        if key in config and not _same(ours := _ours(key, config), printed)
    ]
    return [*said, *_texts(figure, row), *_passes(figure, row)]


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
    """How the texts that were learnt from and scored on differ from all of the printed ones."""
    config, (train, dev) = row.config, SIZES[figure.task]
    said, learnt = [], _learnt_from(row)
    if config.get("folds", 1) > 1:
        said.append(f"each run learned from {config['folds'] - 1} of {config['folds']} parts of the training texts")
    elif config.get("train_examples"):
        said.append(f"learned from a sample of {config['train_examples']:,} training texts")
    elif learnt is not None and learnt < (1 - NEAR) * train:
        said.append(f"learned from {learnt:,} training texts, not {train:,}")
    if config.get("dev_examples"):
        said.append(f"scored on a sample of {config['dev_examples']:,} dev texts")
    elif config.get("dev_part") == "search" and dev >= SMALL:
        what = "scored on" if figure.split == "dev" else "its epoch chosen by"
        said.append(f"{what} half of the dev texts (all of them: --confirm-on test)")
    return said


def _learnt_from(row: TrialRow) -> int | None:
    """How many texts a whole epoch of a run is; None where it ended before its last, or did not train."""
    if not row.curve or row.epochs < row.config.get("epochs", 0):
        return None
    found = row.curve[-1].get("train_examples")
    return None if found is None else int(found)


def _passes(figure: Figure, row: TrialRow) -> list[str]:
    made = passes(row)
    if figure.passes is None or made is None or math.isclose(made, figure.passes, rel_tol=NEAR):
        return []
    return [f"made {_rounded(made)} passes over the training texts, not {figure.passes:g}"]


def _rounded(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def passes(row: TrialRow) -> float | None:
    """How often a run passed over all of its training texts; None where it does not train."""
    if not row.epochs or row.config.get("adapter") == "frozen":
        return None
    config = RunConfig.of(row.config)
    examples = _learnt_from(row) or SIZES.get(config.task, (0, 0))[0]
    return sum(epoch_sizes(config, examples)[: row.epochs]) / examples if examples else None


def _stand_in(figure: Figure, row: TrialRow, summary: Summary) -> str:
    """What the run had in place of the study's model and texts; of the critic, where it learned from pairs that one judged."""
    learns = figure.point.get("pairs_examples") == "all"
    return stand_in(figure.model, row.config, list(summary.pairs.values()) if learns else [])
