"""The answer as English sentences, with values and units. The first sentence answers the question."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2core.metrics.comparison import LEAST, Pair, quantile
from gpt2core.metrics.metric import Metric
from gpt2core.naming import words
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, POWER, UNDECIDED, Decision
from searches.formatting import count, p_text, point_text, setting_text, value_text, with_interval
from searches.summary import ComparedSetting, Effects

TUNED = "with the other settings tuned for each value"


class MetricText:
    """Values and differences of one metric as text."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.name = metric, words(metric.name)

    def number(self, value: float, low: float | None = None, high: float | None = None) -> str:
        """Return a value with the metric's digits, and its interval if it has one."""
        return with_interval(value, low, high, self.metric.digits)

    def amount(self, value: float) -> str:
        """Return the absolute value of a difference, with its unit."""
        return f"{self.number(abs(value))} {self.metric.unit}".strip()

    def advantage(self, pair: Pair) -> tuple[str, str, str]:
        """Return the better setting of a pair, the worse one, and by how much: `0.031 [0.020, 0.042] nats per token`."""
        known = pair.difference
        winner, loser = (pair.a, pair.b) if self.metric.direction.better(known.estimate, 0.0) else (pair.b, pair.a)
        low, high = known.low, known.high
        if low is not None and high is not None and known.estimate <= 0:
            low, high = -high, -low
        return winner, loser, f"{self.number(abs(known.estimate), low, high)} {self.metric.unit}".strip()


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def about_factor(
    name: str, decision: Decision, rows: Sequence[ComparedSetting], metric: Metric, margin: float
) -> list[str]:
    """Return the answer about a factor, sentence by sentence."""
    text, values = MetricText(metric), _values([row for row in rows if row.stable])
    several = " and " in name  # keys, so that the verb is a plural
    matters, shown_margin = f"{name} {'matter' if several else 'matters'}", text.number(margin)
    significant = _significant(decision)
    if decision.outcome == DIFFERENCE and decision.winner is not None:
        beaten = [text.advantage(pair) for pair in significant if decision.winner in (pair.a, pair.b)]
        ahead = listed([f"{other} by {amount}" for _, other, amount in beaten])
        return [f"Yes, {matters}: {decision.winner} has the best {text.name}, ahead of {ahead}."]
    if decision.outcome == DIFFERENCE:
        better, worse, amount = text.advantage(_largest(significant))
        tied = [f"{listed(decision.best)} do not differ significantly."] if len(decision.best) > 1 else []
        return [f"Yes, {matters}: {better} is better than {worse} by {amount} in {text.name}.", *tied]
    if decision.outcome == EQUIVALENT and decision.excluded is not None:
        answer = (
            f"No, {name} {'make' if several else 'makes'} no difference that matters: {TUNED}, {values} are within "
            f"{text.amount(min(margin, decision.excluded))} of each other in {text.name} (the equivalence margin is "
            f"{shown_margin})."
        )
        if not significant:
            return [answer]
        better, worse, amount = text.advantage(_largest(significant))
        return [answer, f"Within that margin, {better} is significantly better than {worse}, by {amount}."]
    if decision.reason:
        leading = [f"No difference among {values} matters."] if decision.complete else _leading(rows, text)
        return [f"Not decided whether {matters}: {decision.reason}.", *leading]
    return [
        f"No effect of {name} on {text.name} was found: {TUNED}, differences of up to {text.amount(decision.excluded or 0.0)} "
        f"between {values} cannot be ruled out (the equivalence margin is {shown_margin}).",
        *needed_text(decision),
    ]


def _significant(decision: Decision) -> list[Pair]:
    return [pair for pair in decision.pairs if pair.p_value is not None and pair.p_value < decision.level]


def _largest(pairs: Sequence[Pair]) -> Pair:
    return max(pairs, key=lambda pair: abs(pair.difference.estimate))


def _values(rows: Sequence[ComparedSetting]) -> str:
    """Return the values of a factor in a sentence: `rank 4, 8 and 16`."""
    keys = {tuple(row.value) for row in rows}
    if len(keys) == 1 and len(next(iter(keys))) == 1:
        (key,) = next(iter(keys))
        return f"{words(key)} {listed([value_text(row.value[key]) for row in rows])}"
    return listed([row.name for row in rows])


def _leading(rows: Sequence[ComparedSetting], text: MetricText) -> list[str]:
    known = [row for row in rows if row.stable and row.mean is not None and math.isfinite(row.mean)]
    best = text.metric.direction.best(known, key=lambda row: row.mean or 0.0)
    if best is None or best.mean is None:
        return []
    return [f"So far, {best.name} leads with {text.name} {text.number(best.mean)}."]


def needed_text(decision: Decision) -> list[str]:
    """Return how many seeds would decide, or that only more texts would; nothing for a decided comparison."""
    if decision.needed is not None:
        return [f"About {count(decision.needed, 'seed')} per setting would decide it if these estimates hold."]
    if decision.needs_texts:
        return ["More seeds would not decide it; more evaluation texts would."]
    return []


def about_best(
    decision: Decision,
    rows: Sequence[ComparedSetting],
    points: Mapping[str, Mapping[str, Any]],
    reference: str,
    metric: Metric,
    margin: float,
) -> list[str]:
    """Return the answer about the best trials and the reference, sentence by sentence; `points` are each setting's values."""
    text, named = MetricText(metric), f"reference ({point_text(points[reference])})"

    def settings(name: str) -> str:
        """Return the values in which a setting differs from the reference."""
        own, other = points[name], points[reference]
        return point_text({key: value for key, value in own.items() if value != other.get(key)}) or point_text(own)

    if decision.winner == reference:
        return [f"The {named} has a better {text.name} than the settings that the search found."]
    if decision.winner is not None:
        won = next(pair for pair in decision.pairs if decision.winner in (pair.a, pair.b))
        _, _, amount = text.advantage(won)
        small = ", which is within the equivalence margin of " + text.number(margin)
        return [
            f"{settings(decision.winner)} is better than the {named} by {amount} in {text.name}"
            f"{small if decision.outcome == EQUIVALENT else ''}."
        ]
    if not decision.pairs or decision.excluded is None:
        return [f"Not decided: {decision.reason}.", *_leading(rows, text)]
    pair = _largest(decision.pairs)
    _, _, amount = text.advantage(pair)
    differ = f"{settings(pair.a)} and the {named} differ by {amount} in {text.name}"
    if decision.outcome == EQUIVALENT:
        return [f"No difference that matters: {differ}, within the equivalence margin of {text.amount(margin)}."]
    if decision.seeds < LEAST:
        return [f"Not decided: {decision.reason}.", f"{differ}."]
    return [f"No setting better than the reference was found: {differ}.", *needed_text(decision)]


def about_upper_reference(pair: Pair, name: str, metric: Metric) -> str:
    """Return the sentence about an upper reference and the best of the compared settings."""
    text = MetricText(metric)
    better, worse, amount = text.advantage(pair)
    return f"Upper reference, not a candidate: {name}; {better} is better than {worse} by {amount} in {text.name}."


def evidence(decision: Decision, metric: Metric, scope: str) -> list[str]:
    """Return up to three lines: the largest difference, the size of the differences that are ruled out, and the scope."""
    text, lines = MetricText(metric), []
    known = [pair for pair in decision.pairs if pair.difference.low is not None]
    significant = [pair for pair in _significant(decision) if pair in known]
    several = len(decision.pairs) > 1
    if known:
        pair = _largest(significant or known)
        better, worse, amount = text.advantage(pair)
        p = "" if pair.p_value is None else f", {p_text(pair.p_value)}"
        corrected = f", corrected for {len(decision.pairs)} comparisons" if several else ""
        lines.append(
            f"Largest {'significant ' if significant else ''}difference: {better} is better than {worse} by {amount} in "
            f"{text.name}{p}{corrected}."
        )
    if decision.excluded is not None:
        level = f"{'familywise ' if several else ''}level {decision.level:.3g}"
        lines.append(f"Differences of more than {text.amount(decision.excluded)} are ruled out at {level}.")
    return [*lines, scope]


def scope_text(decision: Decision, texts: str, fresh: str) -> str:
    """Return what was measured and what the result holds for."""
    measured = f"Measured with {fresh} on {texts}"
    if decision.outcome == UNDECIDED:
        return f"{measured}."
    several = any(pair.difference.texts for pair in decision.pairs)
    return f"{measured}; the result holds for other seeds {'and other texts' if several else 'on these texts'}."


def detectable_text(decision: Decision, metric: Metric) -> str:
    """Return the difference that these seeds and texts detect, by the widest interval; empty if no interval is known."""
    confidence = 1 - decision.level / max(1, len(decision.pairs))
    detectable = [
        (quantile(confidence, known.df) + quantile(2 * POWER - 1, known.df)) * known.se
        for pair in decision.pairs
        if (known := pair.difference).se is not None and known.df is not None and pair.p_value is not None
    ]
    if not detectable or decision.seeds < LEAST:
        return ""
    seeds, least = count(decision.seeds, "seed"), MetricText(metric).amount(max(detectable))
    return f"With {seeds} per setting on these texts, a difference of {least} is detected with {POWER:.0%} power."


def importance_text(effects: Effects, metric: Metric, factor: Sequence[str]) -> str:
    """Return which other setting mattered most, as an exploratory finding; empty if it is not known."""
    row = max((row for row in effects.rows if row.key not in factor), key=lambda row: row.share, default=None)
    if row is None or row.difference_low <= 0:
        return ""
    amount = MetricText(metric).number(row.difference, row.difference_low, row.difference_high)
    return (
        f"Of the other settings, {words(row.key)} mattered most: {setting_text(row.key, row.best)} is better than "
        f"{row.worst} by about {amount} {metric.unit}".rstrip()
        + f" (exploratory, from {effects.trials} trials)."
    )
