"""The tables of a report, as text by row and column, for HTML and Markdown alike."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from searches.formatting import point_text, value_text
from searches.planning.plan_table import number_text
from searches.running.ledger import BAD
from searches.showing.answers import pairs_cells, pairs_headings, pairs_note, rows_cells, rows_headings, rows_title
from searches.showing.facts import PARTS
from searches.showing.numbers import digits_of, number, percent, words
from searches.showing.screen import (
    MOST,
    OVER_TEXTS,
    baseline_metrics,
    baseline_text,
    columns_of,
    left_out,
    score_text,
)

REASONS = 50  # rows of the failures that a page shows

Summary = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table. The first cell of a row names it; `numbers` are the columns to be aligned right, `marked` the rows to see."""

    caption: str
    headings: list[str]
    rows: list[list[str]]
    numbers: frozenset[int] = frozenset()
    marked: frozenset[int] = field(default_factory=frozenset)
    note: str = ""


def trials_grid(summary: Summary) -> Grid:
    """The trials of the search, best first."""
    rows = ranked(summary)
    shown = rows[:MOST]
    keys, columns = _keys(rows), columns_of(summary, rows)
    best = (summary["best"] or {}).get("id")
    first = 2 + len(keys)  # column of the numbers beside the score
    return Grid(
        caption="Trials, best first",
        headings=[
            "trial",
            _score_heading(summary),
            *keys,
            *(head for head, _ in columns.values()),
            "best epoch",
            "status",
            "from",
        ]
        + (["front"] if summary["pareto"] else []),
        rows=[_cells(row, summary, keys, columns) for row in shown],
        numbers=frozenset({1, *range(first, first + 1 + len(columns))}),
        marked=frozenset(place for place, row in enumerate(shown) if row["id"] == best),
        note=f"{left_out(len(rows))} {OVER_TEXTS}".strip(),
    )


def replicates_grid(summary: Summary) -> Grid | None:
    """The runs of the compared settings on fresh seeds."""
    rows = [row for row in summary["trials"] if row["of"] is not None]
    if not rows:
        return None
    return Grid(
        caption="The runs on fresh seeds, by their scores on the texts that the search chose by",
        headings=["run", "of trial", "seed", _score_heading(summary), "status"],
        rows=[
            [row["id"], row["of"], str(row["config"].get("seed", "")), score_text(row, summary), row["status"]]
            for row in sorted(rows, key=lambda row: row["id"])
        ],
        numbers=frozenset({2, 3}),
        note="The answer compares them on texts that the search did not use.",
    )


def answer_grid(summary: Summary) -> Grid | None:
    """The compared settings, with their fresh runs."""
    answer = summary["answer"]
    if not answer["rows"]:
        return None
    headings = rows_headings(answer)
    winner = [place for place, row in enumerate(answer["rows"]) if row["trial"] and row["trial"] == answer["winner"]]
    return Grid(
        caption=rows_title(answer),
        headings=headings,
        rows=rows_cells(answer),
        numbers=frozenset(range(1, headings.index("status"))),
        marked=frozenset(winner),
    )


def answer_pairs_grid(summary: Summary) -> Grid | None:
    """Each compared pair with its difference; None where nothing was compared."""
    answer = summary["answer"]
    if not answer["pairs"]:
        return None
    return Grid(
        caption="Differences",
        headings=pairs_headings(answer),
        rows=pairs_cells(answer),
        numbers=frozenset({2, 3, 4}),
        note=pairs_note(answer),
    )


def effects_grid(summary: Summary) -> Grid | None:
    """Which settings mattered, as an exploration; None where it is not known."""
    effects = summary.get("effects") or {"rows": []}
    if not effects["rows"]:
        return None
    digits = digits_of(summary).get(summary["objective"], 2)
    unit = (summary.get("metrics") or {}).get(summary["objective"], {}).get("unit", "")
    return Grid(
        caption="Exploratory: each setting's share of the explained variance",
        headings=[
            "setting",
            "share",
            "95% interval",
            "best",
            "worst",
            "difference of these" + (f", {unit}" if unit else ""),
            "95% simultaneous interval",
        ],
        rows=[
            [
                row["key"],
                percent(round(row["share"], 2)),
                f"{percent(round(row['low'], 2))} to {percent(round(row['high'], 2))}",
                str(row["best"]),
                str(row["worst"]),
                f"{row['difference']:.{digits}f}",
                f"{row['difference_low']:.{digits}f} to {row['difference_high']:.{digits}f}",
            ]
            for row in effects["rows"]
        ],
        numbers=frozenset({1, 2, 3, 4, 5, 6}),
    )


def reliability_grid(summary: Summary) -> Grid | None:
    """How well each metric tells settings apart; None where no two settings ran again."""
    rows = summary.get("reliability") or []
    if not rows:
        return None
    digits = digits_of(summary)
    return Grid(
        caption="How well each metric tells the compared settings apart",
        headings=["metric", "sd between settings", "sd between runs of one", "reliability"],
        rows=[
            [
                words(row["metric"]),
                _sd(row["between"], row["metric"], digits),
                _sd(row["within"], row["metric"], digits),
                "" if row["reliability"] is None else f"{row['reliability']:.2f}",
            ]
            for row in rows
        ],
        numbers=frozenset({1, 2, 3}),
        note=(
            f"Reliability: the share of the variance of runs that is between settings; at 0, a metric shows chance alone, at 1 "
            f"none. From {rows[0]['settings']} settings with {rows[0]['runs']} runs each, so it is rough."
        ),
    )


def _sd(variance: float | None, metric: str, digits: dict[str, int]) -> str:
    """A variance as a standard deviation, one digit finer than the metric."""
    return "" if variance is None else f"{variance**0.5:.{digits.get(metric, 2) + 1}f}"


def baselines_grid(summary: Summary) -> Grid | None:
    """The trivial baselines; None where there is none."""
    baselines, metrics = list(summary["baselines"].values()), baseline_metrics(summary)
    if not baselines:
        return None
    return Grid(
        caption="Trivial baselines (mean ± sd over seeds)",
        headings=["prediction", *map(words, metrics)],
        rows=[
            [baseline["meaning"], *(baseline_text(baseline["scores"].get(m), m, summary) for m in metrics)]
            for baseline in baselines
        ],
        numbers=frozenset(range(1, len(metrics) + 1)),
    )


def space_grid(summary: Summary) -> Grid | None:
    """What was searched."""
    space = summary.get("space") or {}
    if not space:
        return None
    meaning = {"scientific": "compared", "nuisance": "tuned along, so that the comparison is fair"}
    return Grid(
        caption="The searched hyperparameters",
        headings=["hyperparameter", "values", "role"],
        rows=[[key, of["text"], meaning.get(of.get("role", ""), "")] for key, of in space.items()],
    )


def front_grid(summary: Summary) -> Grid | None:
    """The trials that no other beats in the objective and all costs."""
    on_front = set(summary["pareto"])
    rows = [row for row in ranked(summary) if row["id"] in on_front]
    if not rows:
        return None
    costs = summary["costs"]
    return Grid(
        caption="The Pareto front: no trial is better in one of these and as good in the rest",
        headings=["trial", _score_heading(summary), *map(words, costs), "values"],
        rows=[
            [
                row["id"],
                score_text(row, summary),
                *(number(row["metrics"].get(cost), cost, digits_of(summary)) for cost in costs),
                point_text(row["point"]),
            ]
            for row in rows[:MOST]
        ],
        numbers=frozenset(range(1, len(costs) + 2)),
        note=f"The best {MOST} are shown, of {len(rows)}." if len(rows) > MOST else "",
    )


def failures_grid(summary: Summary) -> Grid | None:
    """Why trials failed, each reason once; numbers in it do not tell two reasons apart."""
    reasons: dict[str, list[Row]] = defaultdict(list)
    for row in summary["trials"]:
        if row["status"] in BAD:
            reasons[re.sub(r"\d[\d.e+-]*", "N", row["reason"] or "no reason was noted")].append(row)
    if not reasons:
        return None
    groups = sorted(reasons.values(), key=len, reverse=True)
    return Grid(
        caption="Trials that failed, diverged or needed too much memory, by reason",
        headings=["trials", "which", "status", "reason, of the first", "its values"],
        rows=[
            [
                str(len(rows)),
                _some([row["id"] for row in rows]),
                rows[0]["status"],
                rows[0]["reason"] or "none noted",
                point_text(rows[0]["point"]),
            ]
            for rows in groups[:REASONS]
        ],
        numbers=frozenset({0}),
        note=f"The {REASONS} most frequent of {len(groups)} reasons." if len(groups) > REASONS else "",
    )


def cost_grid(summary: Summary) -> Grid:
    """What the search took."""
    rows = [[words(key), _plain(value)] for key, value in spent_numbers(summary).items()]
    return Grid(caption="What it took", headings=["", "fact"], rows=rows, numbers=frozenset({1}))


def time_grid(summary: Summary) -> Grid | None:
    """Where the time of the trials went; None where none was reported."""
    parts = summary.get("time") or {}
    total = sum(parts.values())
    if not total:
        return None
    return Grid(
        caption="Where the time of the trials went",
        headings=["part", "seconds", "share", "what it is"],
        rows=[[part, _plain(s), f"{100 * s / total:.1f}%", PARTS.get(part, "")] for part, s in parts.items()],
        numbers=frozenset({1, 2}),
    )


def plan_grid(summary: Summary) -> Grid | None:
    """What was predicted before the search, beside what it came to; None where nothing was."""
    keys = ("predicted", "low", "high", "actual")
    rows = [[str(row["what"]), *(number_text(row.get(key)) for key in keys)] for row in summary.get("plan") or []]
    if not rows:
        return None
    return Grid(caption="Plan and fact", headings=["", *keys], rows=rows, numbers=frozenset({1, 2, 3, 4}))


def spent_numbers(summary: Summary) -> dict[str, Any]:
    """Counts and times of a search by name; those of trials are summed over all epochs that were reported."""
    seconds = {row["id"]: sum(_seconds(report) for report in row["curve"]) for row in summary["trials"]}
    lost = sum(seconds[row["id"]] for row in summary["trials"] if row["status"] in BAD)
    return {
        "wall_seconds": summary["wall_seconds"],
        "trial_seconds": round(sum(seconds.values()), 1),
        **({"seconds_lost_to_failures": round(lost, 1)} if lost else {}),
        **{key: value for key, value in summary["counts"].items() if value or key == "trials"},
    }


def pairs_grid(summary: Summary) -> Grid | None:
    """The sets of generated pairs that trials learnt from; None where there are none."""
    keys = ("contexts", "candidates", "pairs", "accepted")
    rows = [
        [name, *(f"{made[key]:,}" for key in keys), _critic(made), made["digest"][:12]]
        for name, made in (summary.get("pairs") or {}).items()
    ]
    if not rows:
        return None
    return Grid(
        caption="Generated pairs",
        headings=["set", *keys, "critic", "digest"],
        rows=rows,
        numbers=frozenset({1, 2, 3, 4}),
        note="Accepted: by the default thresholds; a trial applies its own.",
    )


def _critic(made: dict[str, Any]) -> str:
    return str(made["critic"]) + (f" ({made['model']})" if made["model"] != "none" else "")


def facts_grid(facts: dict[str, str], *headings: str) -> Grid:
    """Names and values."""
    return Grid(caption="Where it ran", headings=list(headings), rows=[[k, str(v)] for k, v in facts.items()])


def ranked(summary: Summary) -> list[Row]:
    """The trials of the search without replicates, best first, those without a score last."""
    sign = -1 if summary.get("direction") == "min" else 1
    rows = [row for row in summary["trials"] if row["of"] is None]
    return sorted(rows, key=lambda row: (row["score"] is None, -sign * (row["score"] or 0.0), row["id"]))


def _cells(row: Row, summary: Summary, keys: list[str], columns: dict[str, tuple[str, int]]) -> list[str]:
    digits = digits_of(summary)
    return [
        row["id"],
        score_text(row, summary),
        *(value_text(row["point"][key]) if key in row["point"] else "" for key in keys),
        *(number(row["metrics"].get(name), name, digits, few) for name, (_, few) in columns.items()),
        f"{row['best_epoch'] or 0} of {row['epochs']}",
        row["status"],
        row["origin"],
        *(["on it" if row["id"] in summary["pareto"] else ""] if summary["pareto"] else []),
    ]


def _keys(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["point"]))


def _score_heading(summary: Summary) -> str:
    return f"{words(summary['objective'])} [95% interval over texts]"


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _seconds(report: Row) -> float:
    return float(report.get("train_seconds", 0.0)) + float(report.get("eval_seconds", 0.0))


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
