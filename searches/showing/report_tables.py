"""The tables of a search: each is described here once, for the screen, the page and its Markdown."""

import re
from collections import defaultdict
from collections.abc import Mapping

from searches.formatting import point_text, value_text
from searches.planning.plan_table import PREDICTED_AND_ACTUAL, forecast_table
from searches.running.ledger import BAD
from searches.running.quantities import QuantityRow
from searches.showing.answers import interval_name, status, value_name
from searches.showing.facts import PARTS
from searches.showing.numbers import number, p_text, percent, with_interval, words
from searches.showing.tables import Column, Table
from searches.summary import (
    BaselineRow,
    ComparedSetting,
    Difference,
    EffectRow,
    Pairs,
    ReliabilityRow,
    Space,
    Summary,
    TrialRow,
    Verdict,
)

MOST = 200  # trials that a table shows
REASONS = 50  # rows of the failures that a table shows
OVER_TEXTS = "The interval of a single trial is over other texts alone; another seed would move its score too."
ROLES = {"scientific": "compared", "nuisance": "tuned along, so that the comparison is fair", None: ""}

#: Metric -> heading and digits, where a task has it.
COLUMNS = {
    "train_loss": ("train loss", 3),
    "macro_f1": ("macro-F1", 2),
    "chrf_whole": ("whole chrF", 2),
    "dev_perplexity": ("dev perplexity", 1),
    "length_ratio": ("length ratio", 2),
    "form_rhyme": ("rhyme", 2),
}


def trials_table(summary: Summary, title: str = "Trials, best first") -> Table[TrialRow]:
    """The trials of the search, the best first; of many trials the best alone."""
    rows = summary.ranked()
    keys = list(dict.fromkeys(key for row in rows for key in row.point))
    best = summary.best.id if summary.best else None
    columns = [
        Column[TrialRow](heading="trial", show=lambda row: row.id),
        _score(summary),
        *(_value(key) for key in keys),
        *(_metric(name, heading, few, summary) for name, (heading, few) in columns_of(summary, rows).items()),
        Column[TrialRow](heading="best epoch", show=lambda row: f"{row.best_epoch or 0} of {row.epochs}", number=True),
        Column[TrialRow](heading="status", show=lambda row: row.status),
        Column[TrialRow](heading="from", show=lambda row: row.origin),
    ]
    if summary.pareto:
        columns.append(Column(heading="front", show=lambda row: "on it" if row.id in summary.pareto else ""))
    return Table(
        title=title,
        columns=columns,
        rows=rows[:MOST],
        note=f"{_left_out(len(rows))} {OVER_TEXTS}".strip(),
        marked=lambda row: row.id == best,
    )


def _score(summary: Summary) -> Column[TrialRow]:
    heading = f"{words(summary.objective)} [95% interval over texts]"
    return Column(heading=heading, show=lambda row: score_text(row, summary), number=True)


def _value(key: str) -> Column[TrialRow]:
    return Column(heading=key, show=lambda row: value_text(row.point[key]) if key in row.point else "")


def _metric(name: str, heading: str, few: int, summary: Summary) -> Column[TrialRow]:
    digits = summary.digits(name, few)
    return Column(heading=heading, show=lambda row: number(row.metrics.get(name), digits), number=True)


def columns_of(summary: Summary, rows: list[TrialRow]) -> dict[str, tuple[str, int]]:
    """Heading and digits, where no metric says them, of what is shown beside the score of these trials."""
    shown = COLUMNS | {cost: (words(cost), 2) for cost in summary.costs}
    return {
        name: shape
        for name, shape in shown.items()
        if name != summary.objective and any(name in row.metrics for row in rows)
    }


def _left_out(trials: int) -> str:
    """What a table of the best MOST of so many trials says of the others; nothing where there are none."""
    return f"The best {MOST} are shown; {trials - MOST} more are in summary.json." if trials > MOST else ""


def score_text(row: TrialRow, summary: Summary) -> str:
    """The score of a trial with its interval over texts."""
    if row.score is None:
        return "none"
    low, high = (row.metrics.get(f"{summary.objective}_{end}") for end in ("low", "high"))
    return with_interval(row.score, low, high, summary.digits(summary.objective))


def replicates_table(summary: Summary) -> Table[TrialRow]:
    """The runs of the compared settings on fresh seeds."""
    return Table(
        title="The runs on fresh seeds, by their scores on the texts that the search chose by",
        columns=[
            Column(heading="run", show=lambda row: row.id),
            Column(heading="of trial", show=lambda row: row.of or ""),
            Column(heading="seed", show=lambda row: str(row.config.get("seed", "")), number=True),
            _score(summary),
            Column(heading="status", show=lambda row: row.status),
        ],
        rows=sorted((row for row in summary.trials if row.of is not None), key=lambda row: row.id),
        note="The answer compares them on texts that the search did not use.",
    )


def settings_table(answer: Verdict) -> Table[ComparedSetting]:
    """The compared settings, with their fresh runs."""
    metric, factor = answer.metric, answer.factor
    name, digits = words(metric.name), metric.digits
    searched = Column[ComparedSetting](
        heading=f"{name} in the search",
        show=lambda row: "" if row.score is None else f"{row.score:.{digits}f}",
        number=True,
    )
    columns = [
        Column[ComparedSetting](heading=factor.name if factor else "trial", show=lambda row: value_name(row, answer))
    ]
    if factor:
        columns += [
            Column(heading="trials", show=lambda row: str(row.trials), number=True),
            searched,
            Column(heading="of trial", show=lambda row: row.trial or "", number=True),
        ]
    else:
        columns.append(searched)
    columns += [
        Column(heading="fresh runs", show=lambda row: str(len(row.runs)) if row.trial else "", number=True),
        Column(
            heading=f"their mean {name} [{interval_name(answer)}]",
            show=lambda row: "" if row.mean is None else with_interval(row.mean, row.low, row.high, digits),
            number=True,
        ),
        Column(heading="status", show=lambda row: status(row, answer)),
        Column(
            heading="settings",
            show=lambda row: point_text({key: value for key, value in row.point.items() if key not in row.value}),
        ),
    ]
    return Table(
        title=f"Each {factor.name} at its best other settings" if factor else "The best trials and the reference",
        columns=columns,
        rows=answer.rows,
        marked=lambda row: row.trial is not None and row.trial == answer.winner,
    )


def differences_table(answer: Verdict) -> Table[Difference]:
    """Each compared pair with its difference."""
    metric, digits = answer.metric, answer.metric.digits
    unit = f", {metric.unit}" if metric.unit else ""
    favours = "positive" if metric.direction.better(1.0, 0.0) else "negative"
    over_all = (
        f" Welch's ANOVA over all values: p = {p_text(answer.test.anova)}." if answer.test.anova is not None else ""
    )
    return Table(
        title="Differences",
        columns=[
            Column(heading="first", show=lambda pair: pair.a),
            Column(heading="second", show=lambda pair: pair.b),
            Column(
                heading=f"difference of {words(metric.name)}{unit}",
                show=lambda pair: "" if pair.difference is None else f"{pair.difference:+.{digits}f}",
                number=True,
            ),
            Column(
                heading=f"{percent(1 - answer.test.level)} simultaneous interval",
                show=lambda pair: "" if pair.low is None else f"{pair.low:+.{digits}f} to {pair.high:+.{digits}f}",
                number=True,
            ),
            Column(
                heading="p, corrected (Holm)",
                show=lambda pair: "" if pair.p_value is None else p_text(pair.p_value),
                number=True,
            ),
        ],
        rows=answer.pairs,
        note=(
            "Each difference is the first minus the second, between the means of their fresh runs: a "
            f"{favours} one favours the first.{over_all}"
        ),
    )


def effects_table(summary: Summary) -> Table[EffectRow]:
    """Which settings mattered, as an exploration."""
    digits, metric = summary.digits(summary.objective), summary.metrics.get(summary.objective)
    unit = f", {metric.unit}" if metric and metric.unit else ""
    return Table(
        title="Exploratory: each setting's share of the explained variance",
        columns=[
            Column(heading="setting", show=lambda row: row.key),
            Column(heading="share", show=lambda row: percent(round(row.share, 2)), number=True),
            Column(
                heading="95% interval",
                show=lambda row: f"{percent(round(row.low, 2))} to {percent(round(row.high, 2))}",
                number=True,
            ),
            Column(heading="best", show=lambda row: row.best, number=True),
            Column(heading="worst", show=lambda row: row.worst, number=True),
            Column(heading=f"difference of these{unit}", show=lambda row: f"{row.difference:.{digits}f}", number=True),
            Column(
                heading="95% simultaneous interval",
                show=lambda row: f"{row.difference_low:.{digits}f} to {row.difference_high:.{digits}f}",
                number=True,
            ),
        ],
        rows=summary.effects.rows,
    )


def reliability_table(summary: Summary) -> Table[ReliabilityRow]:
    """How well each metric tells settings apart."""
    first = next(iter(summary.reliability), None)
    of = f"From {first.settings} settings with {first.runs} runs each, so it is rough." if first else ""

    def sd(variance: float | None, metric: str) -> str:
        """A variance as a standard deviation, one digit finer than the metric."""
        return "" if variance is None else f"{variance**0.5:.{summary.digits(metric) + 1}f}"

    return Table(
        title="How well each metric tells the compared settings apart",
        columns=[
            Column(heading="metric", show=lambda row: words(row.metric)),
            Column(heading="sd between settings", show=lambda row: sd(row.between, row.metric), number=True),
            Column(heading="sd between runs of one", show=lambda row: sd(row.within, row.metric), number=True),
            Column(
                heading="reliability",
                show=lambda row: "" if row.reliability is None else f"{row.reliability:.2f}",
                number=True,
            ),
        ],
        rows=summary.reliability,
        note=(
            "Reliability: the share of the variance of runs that is between settings; at 0, a metric shows chance alone, at 1 "
            f"none. {of}"
        ),
    )


def baselines_table(summary: Summary) -> Table[BaselineRow]:
    """The trivial baselines, by each metric that any has a score for, the objective first."""
    rows = list(summary.baselines.values())
    named = dict.fromkeys(metric for row in rows for metric in row.scores)
    metrics = sorted(named, key=lambda metric: metric != summary.objective)

    def column(metric: str) -> Column[BaselineRow]:
        return Column(heading=words(metric), show=lambda row: _baseline(row, metric, summary), number=True)

    return Table(
        title="Trivial baselines (mean ± sd over seeds)",
        columns=[Column(heading="prediction", show=lambda row: row.meaning), *map(column, metrics)],
        rows=rows,
    )


def _baseline(row: BaselineRow, metric: str, summary: Summary) -> str:
    """Mean and standard deviation over seeds; the mean alone where nothing is drawn, nothing where there is no such score."""
    if metric not in row.scores:
        return ""
    (mean, sd), digits = row.scores[metric], summary.digits(metric)
    return number(mean, digits) + (f" ± {number(sd, digits)}" if sd else "")


def space_table(summary: Summary) -> Table[tuple[str, Space]]:
    """What was searched."""
    return Table(
        title="The searched hyperparameters",
        columns=[
            Column(heading="hyperparameter", show=lambda row: row[0]),
            Column(heading="values", show=lambda row: row[1].text),
            Column(heading="role", show=lambda row: ROLES[row[1].role]),
        ],
        rows=list(summary.space.items()),
    )


def front_table(summary: Summary) -> Table[TrialRow]:
    """The trials that no other beats in the objective and all costs."""
    rows = [row for row in summary.ranked() if row.id in set(summary.pareto)]
    return Table(
        title="The Pareto front: no trial is better in one of these and as good in the rest",
        columns=[
            Column(heading="trial", show=lambda row: row.id),
            _score(summary),
            *(_metric(cost, words(cost), 2, summary) for cost in summary.costs),
            Column(heading="values", show=lambda row: point_text(row.point)),
        ],
        rows=rows[:MOST],
        note=f"The best {MOST} are shown, of {len(rows)}." if len(rows) > MOST else "",
    )


def failures_table(summary: Summary) -> Table[list[TrialRow]]:
    """Why trials failed, each reason once; numbers in it do not tell two reasons apart."""
    reasons: dict[str, list[TrialRow]] = defaultdict(list)
    for row in summary.trials:
        if row.status in BAD:
            reasons[re.sub(r"\d[\d.e+-]*", "N", row.reason or "no reason was noted")].append(row)
    groups = sorted(reasons.values(), key=len, reverse=True)
    return Table(
        title="Trials that failed, diverged or needed too much memory, by reason",
        columns=[
            Column(heading="trials", show=lambda rows: str(len(rows)), number=True),
            Column(heading="which", show=lambda rows: _some([row.id for row in rows])),
            Column(heading="status", show=lambda rows: rows[0].status),
            Column(heading="reason, of the first", show=lambda rows: rows[0].reason or "none noted"),
            Column(heading="its values", show=lambda rows: point_text(rows[0].point)),
        ],
        rows=groups[:REASONS],
        note=f"The {REASONS} most frequent of {len(groups)} reasons." if len(groups) > REASONS else "",
    )


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def cost_table(summary: Summary) -> Table[tuple[str, float]]:
    """What the search took; seconds of trials are summed over all epochs that were reported."""
    seconds = {
        row.id: sum(epoch.get(part, 0.0) for epoch in row.curve for part in ("train_seconds", "eval_seconds"))
        for row in summary.trials
    }
    lost = sum(seconds[row.id] for row in summary.trials if row.status in BAD)
    took = {"wall seconds": summary.wall_seconds, "trial seconds": round(float(sum(seconds.values())), 1)}
    took |= {"seconds lost to failures": round(lost, 1)} if lost else {}
    counts = {words(key): value for key, value in summary.counts.items() if value or key == "trials"}
    return Table(
        title="What it took",
        columns=[
            Column(heading="", show=lambda row: row[0]),
            Column(heading="fact", show=lambda row: _plain(row[1]), number=True),
        ],
        rows=[*took.items(), *counts.items()],
    )


def time_table(summary: Summary) -> Table[tuple[str, float]]:
    """Where the time of the trials went; no rows where none was reported."""
    total = sum(summary.time.values())
    return Table(
        title="Where the time of the trials went",
        columns=[
            Column(heading="part", show=lambda row: row[0]),
            Column(heading="seconds", show=lambda row: _plain(row[1]), number=True),
            Column(heading="share", show=lambda row: f"{100 * row[1] / total:.1f}%", number=True),
            Column(heading="what it is", show=lambda row: PARTS.get(row[0], "")),
        ],
        rows=list(summary.time.items()) if total else [],
    )


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def predicted_table(summary: Summary) -> Table[QuantityRow]:
    """What was predicted before the search, beside what it came to."""
    return forecast_table(summary.forecast, PREDICTED_AND_ACTUAL, known=True)


def pairs_table(summary: Summary) -> Table[tuple[str, Pairs]]:
    """The sets of generated pairs that trials learnt from."""
    return Table(
        title="Generated pairs",
        columns=[
            Column(heading="set", show=lambda row: row[0]),
            Column(heading="contexts", show=lambda row: f"{row[1].contexts:,}", number=True),
            Column(heading="candidates", show=lambda row: f"{row[1].candidates:,}", number=True),
            Column(heading="pairs", show=lambda row: f"{row[1].pairs:,}", number=True),
            Column(heading="accepted", show=lambda row: f"{row[1].accepted:,}", number=True),
            Column(heading="critic", show=lambda row: _critic(row[1])),
            Column(heading="digest", show=lambda row: row[1].digest[:12]),
        ],
        rows=list(summary.pairs.items()),
        note="Accepted: by the default thresholds; a trial applies its own.",
    )


def _critic(made: Pairs) -> str:
    return made.critic + (f" ({made.model})" if made.model != "none" else "")


def environment_table(facts: Mapping[str, str]) -> Table[tuple[str, str]]:
    """Where a search ran."""
    return Table(
        title="Where it ran",
        columns=[Column(heading="what", show=lambda row: row[0]), Column(heading="value", show=lambda row: row[1])],
        rows=list(facts.items()),
    )
