"""The tables of a search. Each is described once, for the screen, the page and its Markdown."""

import re
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from gpt2core.naming import words
from searches.formatting import (
    brief_keys,
    count,
    number,
    p_text,
    p_value_text,
    percent,
    point_text,
    value_text,
    with_interval,
)
from searches.planning.plan_table import PREDICTED_AND_ACTUAL, forecast_table
from searches.running.ledger import BAD
from searches.showing.answers import interval_name, status, value_name
from searches.showing.facts import PARTS
from searches.showing.tables import Column, Table
from searches.summary import (
    BaselineRow,
    ComparedSetting,
    DecodingOrder,
    DecodingRow,
    Difference,
    EffectRow,
    GainRow,
    Pairs,
    ReliabilityRow,
    Space,
    Summary,
    TrialRow,
)

MOST = 200  # trials that a table shows
REASONS = 50  # rows of the table of failures
NAMES = 8  # trials that a row of it names
OVER_TEXTS = "The interval of a single trial is over texts only; another seed would change its score as well."
ONE_SEED = "Each score is of one run; another seed would change it."
PRUNED = "Kept parameters are left after training; AdaLoRA prunes the others in the first epoch."
ROLES = {"scientific": "compared", "nuisance": "tuned for each compared value, for a fair comparison", None: ""}

#: Metrics that are shown beside the objective if a task has them -> decimals.
COLUMNS = {"train_loss": 3, "macro_f1": 2, "chrf_whole": 2, "dev_perplexity": 1, "length_ratio": 2, "form_rhyme": 2}


def trials_table(summary: Summary, title: str = "Trials, best first") -> Table[TrialRow]:
    """Return the trials of the search without replicates, best first, at most MOST."""
    rows = summary.ranked()
    keys = dict.fromkeys(key for row in rows for key in row.point)
    compared = [key for key in keys if key in summary.space and summary.space[key].role == "scientific"]
    brief = brief_keys(keys, compared)
    best, pruned = summary.best_id, _kept_parameters(rows)
    columns = [
        Column[TrialRow]("trial", lambda row: row.id),
        score_column(summary),
        *(_value(key, detail=key not in brief) for key in sorted(keys, key=lambda key: key not in compared)),
        *(_metric(name, digits, summary) for name, digits in _metrics(summary, rows).items()),
        *pruned,
        Column[TrialRow]("best epoch", lambda row: f"{row.best_epoch or 0} of {row.epochs}", number=True, detail=True),
        Column[TrialRow]("status", lambda row: row.status),
        Column[TrialRow]("origin", lambda row: row.origin, detail=True),
    ]
    if summary.pareto:
        columns.append(Column("Pareto front", lambda row: "yes" if row.id in summary.pareto else ""))
    more = f"The best {MOST} are shown; {len(rows) - MOST} more are in summary.json. " if len(rows) > MOST else ""
    note = more + (OVER_TEXTS if summary.by_texts else ONE_SEED) + (f" {PRUNED}" if pruned else "")
    return Table(
        title=title,
        columns=columns,
        rows=rows[:MOST],
        note=note,
        marked=lambda row: row.id == best,
        trial=lambda row: row.id,
    )


def score_column(summary: Summary) -> Column[TrialRow]:
    """Return the column of scores, with their intervals over texts if these are known."""
    digits = summary.digits(summary.objective)

    def show(row: TrialRow) -> str:
        low, high = (row.metrics.get(f"{summary.objective}_{end}") for end in ("low", "high"))
        return "none" if row.score is None else with_interval(row.score, low, high, digits)

    interval = " [95% interval over texts]" if summary.by_texts else ""
    return Column(f"{words(summary.objective)}{interval}", show, number=True)


def _value(key: str, *, detail: bool) -> Column[TrialRow]:
    return Column(key, lambda row: value_text(row.point[key]) if key in row.point else "", detail=detail)


def _metric(name: str, digits: int, summary: Summary) -> Column[TrialRow]:
    digits = summary.digits(name, digits)
    return Column(words(name), lambda row: number(row.metrics.get(name), digits), number=True, detail=True)


def _metrics(summary: Summary, rows: list[TrialRow]) -> dict[str, int]:
    """Return the default decimals of the metrics beside the objective that any row has."""
    shown = COLUMNS | dict.fromkeys(summary.costs, 2)
    reported = {name for row in rows for name in row.metrics} - {summary.objective}
    return {name: digits for name, digits in shown.items() if name in reported}


def _kept_parameters(rows: list[TrialRow]) -> list[Column[TrialRow]]:
    """Return a column of the parameters that are left after training; none if no trial prunes any."""

    if not any("kept_parameters" in row.metrics for row in rows):
        return []

    def show(row: TrialRow) -> str:
        return number(row.metrics.get("kept_parameters", row.metrics.get("trainable_parameters")), 0)

    return [Column("kept parameters", show, number=True)]


def decoding_table(summary: Summary) -> Table[DecodingRow]:
    """Return the trials in their order by the best decoding, with that by fixed decoding."""
    order = summary.decoding or DecodingOrder(metric="", rows=[], tau=None, text="")
    name, digits = words(order.metric), summary.digits(order.metric)
    return Table(
        title="Order of trials by fixed and by best decoding",
        columns=[
            Column("trial", lambda row: row.trial),
            Column("values", lambda row: point_text(row.point)),
            Column("rank, fixed", lambda row: str(row.rank_fixed), number=True),
            Column("rank, best", lambda row: str(row.rank_best), number=True),
            Column(f"{name}, fixed", lambda row: number(row.score_fixed, digits), number=True),
            Column(f"{name}, best", lambda row: number(row.score_best, digits), number=True),
            Column("best decoding", lambda row: row.settings, detail=True),
        ],
        rows=order.rows[:MOST],
        note=(
            f"{order.text} Each half of the texts is scored with the decoding that is best on the other half. Trials that were "
            "stopped early may have no texts, and then are left out."
        ),
        trial=lambda row: row.trial,
    )


def replicates_table(summary: Summary) -> Table[TrialRow]:
    """Return the runs of the compared settings on fresh seeds."""
    scored_on = ", scored on the texts that the search selects by" if summary.by_texts else ""
    return Table(
        title=f"Runs on fresh seeds{scored_on}",
        columns=[
            Column("run", lambda row: row.id),
            Column("of trial", lambda row: row.of or ""),
            Column("seed", lambda row: str(row.config.get("seed", "")), number=True),
            score_column(summary),
            Column("status", lambda row: row.status),
        ],
        rows=sorted((row for row in summary.trials if row.of is not None), key=lambda row: row.id),
        trial=lambda row: row.of,
        note="The answer compares these runs on held-out texts." if summary.by_texts else "",
    )


def settings_table(summary: Summary) -> Table[ComparedSetting]:
    """Return the compared settings with their runs on fresh seeds."""
    answer = summary.answer
    metric, factor = answer.metric, answer.factor
    name, digits = words(metric.name), metric.digits
    columns: list[Column[ComparedSetting]] = [
        Column(factor.name if factor else "trial", lambda row: value_name(row, answer)),
        Column(
            f"{name} in the search",
            lambda row: "" if row.score is None else f"{row.score:.{digits}f}",
            number=True,
            detail=True,
        ),
        Column("runs on fresh seeds", lambda row: str(len(row.runs)) if row.trial else "", number=True, detail=True),
        Column(
            f"their mean {name} [{interval_name(answer, by_texts=summary.by_texts)}]",
            lambda row: "" if row.mean is None else with_interval(row.mean, row.low, row.high, digits),
            number=True,
        ),
        Column("status", lambda row: status(row, answer)),
        Column("other settings", lambda row: point_text(_others(row)), detail=True),
    ]
    if factor:
        columns.insert(1, Column("trials", lambda row: str(row.trials), number=True, detail=True))
        columns.insert(3, Column("best trial", lambda row: row.trial or "", number=True))
    return Table(
        title=f"Each {factor.name} at its best other settings" if factor else "The best trials and the reference",
        columns=columns,
        rows=answer.rows,
        marked=lambda row: row.trial is not None and row.trial == answer.winner,
    )


def _others(row: ComparedSetting) -> dict[str, Any]:
    return {key: value for key, value in row.point.items() if key not in row.value}


def _differences(summary: Summary) -> Table[Difference]:
    answer = summary.answer
    metric, digits = answer.metric, answer.metric.digits
    unit = f", {metric.unit}" if metric.unit else ""
    sign = "positive" if metric.direction.better(1.0, 0.0) else "negative"
    anova = f" Welch's ANOVA over all values: {p_text(answer.test.anova)}." if answer.test.anova is not None else ""
    return Table(
        title="Differences",
        columns=[
            Column("first", lambda pair: pair.a),
            Column("second", lambda pair: pair.b),
            Column(
                f"difference of {words(metric.name)}{unit}",
                lambda pair: "" if pair.difference is None else f"{pair.difference:+.{digits}f}",
                number=True,
            ),
            Column(
                f"{percent(1 - answer.test.level)} simultaneous interval",
                lambda pair: "" if pair.low is None else f"{pair.low:+.{digits}f} to {pair.high:+.{digits}f}",
                number=True,
            ),
            Column(
                "p, corrected (Holm)",
                lambda pair: "" if pair.p_value is None else p_value_text(pair.p_value),
                number=True,
            ),
        ],
        rows=answer.pairs,
        note=f"The first mean over fresh seeds minus the second: a {sign} difference favours the first.{anova}",
    )


def _effects(summary: Summary) -> Table[EffectRow]:
    digits, metric = summary.digits(summary.objective), summary.metrics.get(summary.objective)
    unit = f", {metric.unit}" if metric and metric.unit else ""

    def shares(row: EffectRow) -> str:
        return f"{percent(round(row.low, 2))} to {percent(round(row.high, 2))}"

    def interval(row: EffectRow) -> str:
        return f"{row.difference_low:.{digits}f} to {row.difference_high:.{digits}f}"

    return Table(
        title="Exploratory: share of the explained variance by setting",
        columns=[
            Column("setting", lambda row: row.key),
            Column("share", lambda row: percent(round(row.share, 2)), number=True),
            Column("95% interval", shares, number=True),
            Column("best value", lambda row: row.best, number=True),
            Column("worst value", lambda row: row.worst, number=True),
            Column(f"difference of these two{unit}", lambda row: f"{row.difference:.{digits}f}", number=True),
            Column("95% simultaneous interval", interval, number=True),
        ],
        rows=summary.effects.rows,
    )


def _reliability(summary: Summary) -> Table[ReliabilityRow]:
    first = next(iter(summary.reliability), None)
    basis = f" A rough estimate from {first.settings} settings with {count(first.runs, 'run')} each." if first else ""

    def sd(variance: float | None, metric: str) -> str:
        """Return the standard deviation with one more decimal than the metric."""
        return "" if variance is None else f"{variance**0.5:.{summary.digits(metric) + 1}f}"

    return Table(
        title="How well each metric tells the compared settings apart",
        columns=[
            Column("metric", lambda row: words(row.metric)),
            Column("sd between settings", lambda row: sd(row.between, row.metric), number=True),
            Column("sd between runs of a setting", lambda row: sd(row.within, row.metric), number=True),
            Column("reliability", lambda row: number(row.reliability, 2), number=True),
        ],
        rows=summary.reliability,
        note=(
            "Reliability is the share of the variance of runs that lies between settings: at 0 a metric shows only chance, at 1 "
            f"none.{basis}"
        ),
    )


def baselines_table(summary: Summary) -> Table[BaselineRow]:
    """Return the trivial baselines with all metrics that any has a score for, the objective first."""
    rows = list(summary.baselines.values())
    names = dict.fromkeys(metric for row in rows for metric in row.scores)

    def column(metric: str) -> Column[BaselineRow]:
        def show(row: BaselineRow) -> str:
            if metric not in row.scores:
                return ""
            (mean, sd), digits = row.scores[metric], summary.digits(metric)
            return number(mean, digits) + (f" ± {number(sd, digits)}" if sd else "")

        return Column(words(metric), show, number=True, detail=metric != summary.objective)

    return Table(
        title="Trivial baselines (mean ± sd over seeds)",
        columns=[
            Column("baseline", lambda row: row.meaning),
            *map(column, sorted(names, key=lambda metric: metric != summary.objective)),
        ],
        rows=rows,
    )


def _space(summary: Summary) -> Table[tuple[str, Space]]:
    return Table(
        title="Search space",
        columns=[
            Column("hyperparameter", lambda row: row[0]),
            Column("values", lambda row: row[1].text),
            Column("role", lambda row: ROLES[row[1].role]),
        ],
        rows=list(summary.space.items()),
    )


def _front(summary: Summary) -> Table[TrialRow]:
    rows = [row for row in summary.ranked() if row.id in set(summary.pareto)]
    return Table(
        title="Pareto front: no other trial is better in one of these and as good in the rest",
        columns=[
            Column("trial", lambda row: row.id),
            score_column(summary),
            *(_metric(name, 2, summary) for name in summary.criteria if name != summary.objective),
            Column("values", lambda row: point_text(row.point)),
        ],
        rows=rows[:MOST],
        trial=lambda row: row.id,
        note=f"The best {MOST} of {len(rows)} are shown." if len(rows) > MOST else "",
    )


def _gains(summary: Summary) -> Table[GainRow]:
    points = {row.id: row.point for row in summary.trials}

    def task_column(task: str) -> Column[GainRow]:
        return Column(task, lambda row: _gain(row.tasks[task]), number=True)

    return Table(
        title="Tasks: gain over the best separately trained model of each, in percent",
        columns=[
            Column("trial", lambda row: row.trial),
            *map(task_column, summary.gains[0].tasks if summary.gains else ()),
            Column("mean", lambda row: _gain(row.mean), number=True),
            Column("worst task", lambda row: _gain(row.worst), number=True),
            Column("Pareto front", lambda row: "yes" if row.trial in summary.pareto else ""),
            Column("values", lambda row: point_text(points[row.trial])),
        ],
        rows=summary.gains[:MOST],
        trial=lambda row: row.trial,
        note="The gain of a classification is that of its accuracy, of a language model that of 1 / perplexity; their mean is "
        "geometric. Each number is of one run. The best separate models are chosen by these scores, so gains are rather low.",
    )


def _gain(value: float) -> str:
    return f"{value:+.1f}"


def _failures(summary: Summary) -> Table[list[TrialRow]]:
    reasons: dict[str, list[TrialRow]] = defaultdict(list)
    for row in summary.trials:
        if row.status in BAD:
            reasons[re.sub(r"\d[\d.e+-]*", "N", row.reason or "no reason given")].append(row)
    groups = sorted(reasons.values(), key=len, reverse=True)

    def names(rows: list[TrialRow]) -> str:
        more = f" and {len(rows) - NAMES} more" if len(rows) > NAMES else ""
        return ", ".join(row.id for row in rows[:NAMES]) + more

    return Table(
        title="Trials that failed, diverged or ran out of memory, by reason",
        columns=[
            Column("trials", lambda rows: str(len(rows)), number=True),
            Column("names", names),
            Column("status", lambda rows: rows[0].status),
            Column("reason of the first", lambda rows: rows[0].reason or "none given"),
            Column("values of the first", lambda rows: point_text(rows[0].point)),
        ],
        rows=groups[:REASONS],
        note=f"The {REASONS} most frequent of {len(groups)} reasons." if len(groups) > REASONS else "",
    )


def _cost(summary: Summary) -> Table[tuple[str, float]]:
    seconds = {
        row.id: sum(epoch.get(part, 0.0) for epoch in row.curve for part in ("train_seconds", "eval_seconds"))
        for row in summary.trials
    }
    lost = sum(seconds[row.id] for row in summary.trials if row.status in BAD)
    took = {"wall seconds": summary.wall_seconds, "trial seconds": round(float(sum(seconds.values())), 1)}
    took |= {"seconds lost to failures": round(lost, 1)} if lost else {}
    counts = {words(key): value for key, value in summary.counts.items() if value or key == "trials"}
    return Table(
        title="Cost of the search",
        columns=[Column("quantity", lambda row: row[0]), Column("value", lambda row: _plain(row[1]), number=True)],
        rows=[*took.items(), *counts.items()],
    )


def _time(summary: Summary) -> Table[tuple[str, float]]:
    total = sum(summary.time.values())
    return Table(
        title="Time of the trials by part",
        columns=[
            Column("part", lambda row: row[0]),
            Column("seconds", lambda row: _plain(row[1]), number=True),
            Column("share", lambda row: f"{100 * row[1] / total:.1f}%", number=True),
            Column("meaning", lambda row: PARTS.get(row[0], "")),
        ],
        rows=list(summary.time.items()) if total else [],
    )


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _pairs(summary: Summary) -> Table[tuple[str, Pairs]]:
    return Table(
        title="Generated pairs",
        columns=[
            Column("set", lambda row: row[0]),
            Column("contexts", lambda row: f"{row[1].contexts:,}", number=True),
            Column("candidates", lambda row: f"{row[1].candidates:,}", number=True),
            Column("pairs", lambda row: f"{row[1].pairs:,}", number=True),
            Column("accepted", lambda row: f"{row[1].accepted:,}", number=True),
            Column("critic", lambda row: row[1].critic + (f" ({row[1].model})" if row[1].model != "none" else "")),
            Column("digest", lambda row: row[1].digest[:12]),
        ],
        rows=list(summary.pairs.items()),
        note="Accepted by the default thresholds; a trial applies its own.",
    )


def _environment(summary: Summary) -> Table[tuple[str, str]]:
    columns: list[Column[tuple[str, str]]] = [Column("item", itemgetter(0)), Column("value", itemgetter(1))]
    return Table(
        title="Machine and versions", columns=columns, rows=[*summary.environment.items(), *summary.versions.items()]
    )


#: The tables of a report, by the name that its templates use.
TABLES: dict[str, Callable[[Summary], Table[Any]]] = {
    "settings": settings_table,
    "differences": _differences,
    "trials": trials_table,
    "decoding": decoding_table,
    "baselines": baselines_table,
    "replicates": replicates_table,
    "space": _space,
    "effects": _effects,
    "reliability": _reliability,
    "front": _front,
    "gains": _gains,
    "failures": _failures,
    "cost": _cost,
    "predicted": lambda summary: forecast_table(summary.forecast, PREDICTED_AND_ACTUAL, known=True),
    "time": _time,
    "pairs": _pairs,
    "environment": _environment,
}
