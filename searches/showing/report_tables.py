"""The tables of a report, as text by row and column, for HTML and Markdown alike."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from searches.planning.plan_table import number_text
from searches.running.ledger import BAD
from searches.showing.facts import PARTS
from searches.showing.screen import COLUMNS, MOST, left_out
from searches.words import point_text, value_text

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
    keys, columns = _keys(rows), _columns(summary, rows)
    best = (summary["best"] or {}).get("id")
    first = 2 + len(keys)  # column of the numbers beside the score
    return Grid(
        caption="Trials, best first",
        headings=["trial", _score_heading(summary), *keys, *columns, "best epoch", "status", "from"]
        + (["front"] if summary["pareto"] else []),
        rows=[_cells(row, summary, keys, list(columns.values())) for row in shown],
        numbers=frozenset({1, *range(first, first + 1 + len(columns))}),
        marked=frozenset(place for place, row in enumerate(shown) if row["id"] == best),
        note=left_out(len(rows)),
    )


def replicates_grid(summary: Summary) -> Grid | None:
    """The finalists again, on fresh seeds: what the verdict compares."""
    rows = [row for row in summary["trials"] if row["of"] is not None]
    if not rows:
        return None
    return Grid(
        caption="The finalists on fresh seeds, which the verdict compares",
        headings=["run", "of trial", "seed", _score_heading(summary), "status"],
        rows=[
            [row["id"], row["of"], str(row["config"].get("seed", "")), score_text(row, summary), row["status"]]
            for row in sorted(rows, key=lambda row: row["id"])
        ],
        numbers=frozenset({2, 3}),
    )


def best_by_grid(key: str, summary: Summary) -> Grid:
    """The best score of each value of a key that is compared."""
    return Grid(
        caption=f"Best of each {key}, searched and not yet confirmed",
        headings=[key, "trials", f"best {_words(summary['objective'])}", "trial"],
        rows=[
            [value_text(row["value"]), str(row["trials"]), f"{row['score']:.2f}", row["best_trial"]]
            for row in summary["best_by"][key]
        ],
        numbers=frozenset({1, 2}),
    )


def floors_grid(summary: Summary) -> Grid | None:
    """What no model is needed for."""
    floors = list(summary["floors"].values())
    metrics = list(dict.fromkeys(metric for floor in floors for metric in floor["scores"]))
    if not floors:
        return None
    return Grid(
        caption="Floors: what no model is needed for, mean and standard deviation over seeds",
        headings=["prediction", *map(_words, metrics)],
        rows=[[floor["meaning"], *(_floor_text(floor["scores"].get(m)) for m in metrics)] for floor in floors],
        numbers=frozenset(range(1, len(metrics) + 1)),
    )


def space_grid(summary: Summary) -> Grid | None:
    """What was searched."""
    space = summary.get("space") or {}
    if not space:
        return None
    meaning = {"scientific": "compared", "nuisance": "tuned along, so that the comparison is fair"}
    return Grid(
        caption="The searched keys",
        headings=["key", "values", "role"],
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
        headings=["trial", _score_heading(summary), *map(_words, costs), "values"],
        rows=[
            [
                row["id"],
                score_text(row, summary),
                *(_metric_text(cost, row["metrics"].get(cost)) for cost in costs),
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
    rows = [[_words(key), _plain(value)] for key, value in spent_numbers(summary).items()]
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


def score_text(row: Row, summary: Summary) -> str:
    """The score of a trial with its interval."""
    if row["score"] is None:
        return "none"
    low, high = (row["metrics"].get(f"{summary['objective']}_{end}") for end in ("low", "high"))
    return f"{row['score']:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def _cells(row: Row, summary: Summary, keys: list[str], metrics: list[str]) -> list[str]:
    return [
        row["id"],
        score_text(row, summary),
        *(value_text(row["point"][key]) if key in row["point"] else "" for key in keys),
        *(_metric_text(name, row["metrics"].get(name)) for name in metrics),
        f"{row['best_epoch'] or 0} of {row['epochs']}",
        row["status"],
        row["origin"],
        *(["on it" if row["id"] in summary["pareto"] else ""] if summary["pareto"] else []),
    ]


def _keys(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["point"]))


def _columns(summary: Summary, rows: list[Row]) -> dict[str, str]:
    """Heading and metric of what is shown beside the score, where a trial has it."""
    heads = {name: head for name, (head, _) in COLUMNS.items()} | {cost: _words(cost) for cost in summary["costs"]}
    return {head: name for name, head in heads.items() if any(name in row["metrics"] for row in rows)}


def _score_heading(summary: Summary) -> str:
    return f"{_words(summary['objective'])} [95% interval]"


def _metric_text(name: str, value: float | None) -> str:
    digits = COLUMNS[name][1] if name in COLUMNS else 0 if name.endswith("parameters") else 2
    return "" if value is None else f"{value:,.{digits}f}"


def _floor_text(score: Any) -> str:
    return "" if score is None else f"{score[0]:.2f} ± {score[1]:.2f}"


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _seconds(report: Row) -> float:
    return float(report.get("train_seconds", 0.0)) + float(report.get("eval_seconds", 0.0))


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
