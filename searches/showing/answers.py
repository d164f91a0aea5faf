"""The answer of a search in parts, for the screen and its report: its first sentence, its numbers, and its tables."""

import re
from collections.abc import Mapping
from typing import Any

from searches.formatting import count, point_text
from searches.showing.numbers import p_text, percent, with_interval, words

Summary = Mapping[str, Any]
Answer = Mapping[str, Any]
Row = Mapping[str, Any]

OUTCOMES = {
    "difference": "they differ",
    "equivalent": "no difference that matters",
    "undecided": "not decided",
}


def claim_and_rest(text: str) -> tuple[str, str]:
    """The first sentence of a text, and what follows."""
    claim, *rest = re.split(r"(?<=[.!?])\s+", text.strip(), maxsplit=1)
    return claim, "".join(rest)


def numbers(answer: Answer) -> dict[str, str]:
    """What the answer rests on, by name; what is not known is left out."""
    found = {"Outcome": OUTCOMES[answer["outcome"]]}
    pair = largest(answer)
    if pair:
        found["Largest difference"] = before_text(pair, answer)
    if answer["test"]["p_value"] is not None:
        found["p"] = p_text(answer["test"]["p_value"])
    if answer["excluded"] is not None:
        found["Not excluded"] = f"differences up to {amount(answer['excluded'], answer)}"
    found["Matters from"] = amount(answer["metric"]["margin"], answer)
    if answer["seeds"]:
        found["Fresh seeds"] = f"{answer['seeds']} each"
    if not answer["decided"] and answer["seeds_needed"] is not None:
        found["Seeds needed"] = f"about {answer['seeds_needed']} each"
    if not answer["decided"] and answer["needs_texts"]:
        found["Needed"] = "more texts to judge on, not more seeds"
    return found


def largest(answer: Answer) -> Row | None:
    """The pair with the largest difference, those first whose interval is known."""
    pairs = [pair for pair in answer["pairs"] if pair["difference"] is not None]
    return max(pairs, key=lambda pair: (pair["low"] is not None, abs(pair["difference"])), default=None)


def before_text(pair: Row, answer: Answer) -> str:
    """A pair as the better one before the other, by how much, with its simultaneous interval and its unit."""
    metric, difference = answer["metric"], pair["difference"]
    first_is_better = difference > 0 if metric["direction"] == "max" else difference <= 0
    better, worse = (pair["a"], pair["b"]) if first_is_better else (pair["b"], pair["a"])
    sign = 1 if difference > 0 else -1
    low, high = (None, None) if pair["low"] is None else sorted((sign * pair["low"], sign * pair["high"]))
    shown = with_interval(abs(difference), low, high, metric["digits"])
    return f"{better} before {worse} by {shown} {metric['unit']}".strip()


def amount(value: float, answer: Answer) -> str:
    """A difference without its sign, with its unit."""
    return f"{value:.{answer['metric']['digits']}f} {answer['metric']['unit']}".strip()


def rows_title(answer: Answer) -> str:
    """What the table of the compared settings is called."""
    if answer["factor"]:
        return f"Each {answer['factor']['name']} at its best other settings"
    return "The best trials and the reference"


def rows_headings(answer: Answer) -> list[str]:
    """Headings of the table of the compared settings."""
    metric = words(answer["metric"]["name"])
    first = [answer["factor"]["name"], "trials"] if answer["factor"] else ["trial"]
    return [
        *first,
        f"{metric} in the search",
        *(["of trial"] if answer["factor"] else []),
        "fresh runs",
        f"their mean {metric} [{interval_name(answer)}]",
        "status",
        "settings",
    ]


def interval_name(answer: Answer) -> str:
    """What the interval of a mean covers: one run says nothing of other seeds."""
    return "95% interval" if answer["seeds"] > 1 else "95% interval over texts"


def rows_cells(answer: Answer) -> list[list[str]]:
    """A row of the table for each compared setting."""
    digits = answer["metric"]["digits"]
    return [
        [
            value_name(row, answer),
            *([str(row["trials"])] if answer["factor"] else []),
            "" if row["score"] is None else f"{row['score']:.{digits}f}",
            *([row["trial"] or ""] if answer["factor"] else []),
            str(len(row["runs"])) if row["trial"] else "",
            "" if row["mean"] is None else with_interval(row["mean"], row["low"], row["high"], digits),
            status(row, answer),
            point_text({key: value for key, value in row["point"].items() if key not in row["value"]}),
        ]
        for row in answer["rows"]
    ]


def value_name(row: Row, answer: Answer) -> str:
    """What a compared setting is called in a table whose heading names the factor."""
    factor = answer["factor"]
    if factor is None:
        return f"{row['name']}, the reference" if row["trial"] == answer["reference"] else str(row["name"])
    return str(row["name"]).removeprefix(f"{factor['name']} ") if len(factor["keys"]) == 1 else str(row["name"])


def status(row: Row, answer: Answer) -> str:
    """What came of a compared setting, in a few words."""
    if row["failed"]:
        return f"unstable: {count(len(row['failed']), 'run')} failed"
    if row["trial"] is None:
        return "no score"
    if not row["runs"]:
        return "not run again"
    if row["trial"] == answer["winner"]:
        return "better than all others"
    if not answer["best"] or answer["seeds"] < 2:
        return ""
    return "none is surely better" if row["name"] in answer["best"] else "another is surely better"


def pairs_headings(answer: Answer) -> list[str]:
    """Headings of the table of the pairs."""
    level, unit = answer["test"]["level"], answer["metric"]["unit"]
    of = f"difference of {words(answer['metric']['name'])}" + (f", {unit}" if unit else "")
    return ["first", "second", of, f"{percent(1 - level)} simultaneous interval", "p, corrected (Holm)"]


def pairs_cells(answer: Answer) -> list[list[str]]:
    """A row of the table for each pair that was compared."""
    digits, found = answer["metric"]["digits"], []
    for pair in answer["pairs"]:
        ends = "" if pair["low"] is None else f"{pair['low']:+.{digits}f} to {pair['high']:+.{digits}f}"
        p = "" if pair["p_value"] is None else p_text(pair["p_value"])
        found.append([pair["a"], pair["b"], f"{pair['difference']:+.{digits}f}", ends, p])
    return found


def pairs_note(answer: Answer) -> str:
    """How to read the table of the pairs."""
    want = (
        "a negative one favours the first"
        if answer["metric"]["direction"] == "min"
        else "a positive one favours the first"
    )
    anova = answer["test"]["anova"]
    over_all = f" Welch's ANOVA over all values: p = {p_text(anova)}." if anova is not None else ""
    return f"Each difference is the first minus the second, between the means of their fresh runs: {want}.{over_all}"
