"""The answer of a search in parts, for the screen and its report: its first sentence, its numbers, and its tables."""

from searches.formatting import count, value_text
from searches.showing.numbers import p_text, with_interval
from searches.summary import ComparedSetting, Difference, Verdict

OUTCOMES = {
    "difference": "they differ",
    "equivalent": "no difference that matters",
    "undecided": "not decided",
}


def numbers(answer: Verdict) -> dict[str, str]:
    """What the answer rests on, by name; what is not known is left out."""
    found = {"Outcome": OUTCOMES[answer.outcome]}
    pair = largest(answer)
    if pair:
        found["Largest difference"] = before_text(pair, answer)
    if answer.test.p_value is not None:
        found["p"] = p_text(answer.test.p_value)
    if answer.excluded is not None:
        found["Not excluded"] = f"differences up to {amount(answer.excluded, answer)}"
    found["Matters from"] = amount(answer.metric.margin, answer)
    if answer.seeds:
        found["Fresh seeds"] = f"{answer.seeds} each"
    if not answer.decided and answer.seeds_needed is not None:
        found["Seeds needed"] = f"about {answer.seeds_needed} each"
    if not answer.decided and answer.needs_texts:
        found["Needed"] = "more texts to judge on, not more seeds"
    return found


def largest(answer: Verdict) -> Difference | None:
    """The pair with the largest difference, those first whose interval is known."""
    pairs = [pair for pair in answer.pairs if pair.difference is not None]
    return max(pairs, key=lambda pair: (pair.low is not None, abs(pair.difference or 0.0)), default=None)


def before_text(pair: Difference, answer: Verdict) -> str:
    """A pair as the better one before the other, by how much, with its simultaneous interval and its unit."""
    metric, difference = answer.metric, pair.difference or 0.0
    first_is_better = metric.direction.better(difference, 0.0)
    better, worse = (pair.a, pair.b) if first_is_better else (pair.b, pair.a)
    sign = 1 if difference > 0 else -1
    low, high = (None, None) if pair.low is None or pair.high is None else sorted((sign * pair.low, sign * pair.high))
    shown = with_interval(abs(difference), low, high, metric.digits)
    return f"{better} before {worse} by {shown} {metric.unit}".strip()


def amount(value: float, answer: Verdict) -> str:
    """A difference without its sign, with its unit."""
    return f"{value:.{answer.metric.digits}f} {answer.metric.unit}".strip()


def interval_name(answer: Verdict) -> str:
    """What the interval of a mean covers: one run says nothing of other seeds."""
    return "95% interval" if answer.seeds > 1 else "95% interval over texts"


def value_name(row: ComparedSetting, answer: Verdict) -> str:
    """What a compared setting is called in a table whose heading names the factor."""
    factor = answer.factor
    if factor is None:
        return f"{row.name}, the reference" if row.trial == answer.reference else row.name
    own = [row.value[key] for key in factor.keys if key in row.value]
    return value_text(own[0]) if len(factor.keys) == len(own) == 1 else row.name


def status(row: ComparedSetting, answer: Verdict) -> str:
    """What came of a compared setting, in a few words."""
    if row.failed:
        return f"unstable: {count(len(row.failed), 'run')} failed"
    if row.trial is None:
        return "no score"
    if not row.runs:
        return "not run again"
    if row.trial == answer.winner:
        return "better than all others"
    if not answer.best or answer.seeds < 2:
        return ""
    return "none is surely better" if row.name in answer.best else "another is surely better"
