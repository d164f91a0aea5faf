"""The parts of an answer that the report and its tables show: numbers, intervals, names and statuses."""

from searches.formatting import count, p_value_text, value_text, with_interval
from searches.summary import ComparedSetting, Difference, Verdict

OUTCOMES = {
    "difference": "they differ",
    "equivalent": "no difference that matters",
    "undecided": "not decided",
}


def numbers(answer: Verdict) -> dict[str, str]:
    """Return the known numbers behind the answer, by label."""
    shown = {"Outcome": OUTCOMES[answer.outcome]}
    pairs = [pair for pair in answer.pairs if pair.difference is not None]
    if pairs:
        largest = max(pairs, key=lambda pair: (pair.low is not None, abs(pair.difference or 0.0)))
        shown["Largest difference"] = difference_text(largest, answer)
    if answer.test.p_value is not None:
        shown["p"] = p_value_text(answer.test.p_value)
    if answer.excluded is not None:
        shown["Not excluded"] = f"differences up to {amount(answer.excluded, answer)}"
    shown["Smallest difference that matters"] = amount(answer.metric.margin, answer)
    if answer.seeds:
        shown["Fresh seeds"] = f"{answer.seeds} each"
    if not answer.decided and answer.seeds_needed is not None:
        shown["Seeds needed"] = f"about {answer.seeds_needed} each"
    if not answer.decided and answer.needs_texts:
        shown["Needed"] = "more evaluation texts, not more seeds"
    return shown


def difference_text(pair: Difference, answer: Verdict) -> str:
    """Return the better setting, the worse one and their difference with its simultaneous interval and unit."""
    metric, difference = answer.metric, pair.difference or 0.0
    better, worse = (pair.a, pair.b) if metric.direction.better(difference, 0.0) else (pair.b, pair.a)
    sign = 1 if difference > 0 else -1
    low, high = (None, None) if pair.low is None or pair.high is None else sorted((sign * pair.low, sign * pair.high))
    shown = with_interval(abs(difference), low, high, metric.digits)
    return f"{better} better than {worse} by {shown} {metric.unit}".strip()


def amount(value: float, answer: Verdict) -> str:
    """Return an unsigned difference with its unit."""
    return f"{value:.{answer.metric.digits}f} {answer.metric.unit}".strip()


def interval_name(answer: Verdict, *, by_texts: bool) -> str:
    """Return what the interval of a mean covers: that of a single run, if scored by texts, does not cover other seeds."""
    return "95% interval over texts" if by_texts and answer.seeds <= 1 else "95% interval"


def value_name(row: ComparedSetting, answer: Verdict) -> str:
    """Return the name of a compared setting in a table whose heading names the factor."""
    factor = answer.factor
    if factor is None:
        return f"{row.name}, the reference" if row.trial == answer.reference else row.name
    own = [row.value[key] for key in factor.keys if key in row.value]
    return value_text(own[0]) if len(factor.keys) == len(own) == 1 else row.name


def status(row: ComparedSetting, answer: Verdict) -> str:
    """Return the result of a compared setting in a few words."""
    if row.failed:
        return f"unstable: {count(len(row.failed), 'run')} failed"
    if row.trial is None:
        return "no score"
    if row.upper_reference:
        return "upper reference, not a candidate"
    if not row.runs:
        return "not run again"
    if row.trial == answer.winner:
        return "significantly better than all others"
    if not answer.best or answer.seeds < 2:
        return ""
    return "none is significantly better" if row.name in answer.best else "another is significantly better"
