"""The answer in words: the first sentence answers the question, with values; no number of a trial where a value says more."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2core.metrics.comparison import LEAST, Pair, quantile
from gpt2core.metrics.metric import Metric
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, POWER, UNDECIDED, Decision
from searches.formatting import count, point_text, setting_text, value_text
from searches.summary import ComparedSetting, Effects


class Words:
    """Words for differences of one metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.name = metric, metric.name.replace("_", " ")

    def number(self, value: float) -> str:
        """A value with the metric's digits."""
        return f"{value:.{self.metric.digits}f}"

    def amount(self, value: float) -> str:
        """A difference without its sign, with its unit."""
        return f"{self.number(abs(value))} {self.metric.unit}".strip()

    def advantage(self, pair: Pair) -> tuple[str, str, str]:
        """The better side of a pair, the other one, and by how much: `0.031 [0.020, 0.042] nats per token`."""
        one, better = pair.difference, self.metric.direction.better(pair.difference.estimate, 0.0)
        winner, loser = (pair.a, pair.b) if better else (pair.b, pair.a)
        turned = 1 if one.estimate > 0 else -1
        interval = ""
        if one.low is not None and one.high is not None:
            low, high = sorted((turned * one.low, turned * one.high))
            interval = f" [{self.number(low)}, {self.number(high)}]"
        return winner, loser, f"{self.number(abs(one.estimate))}{interval} {self.metric.unit}".strip()


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def about_factor(
    name: str, decision: Decision, rows: Sequence[ComparedSetting], metric: Metric, margin: float
) -> list[str]:
    """What is found of a factor, the answer first."""
    words, values = Words(metric), _values([row for row in rows if row.stable])
    tuned = "with the other settings tuned for each value"
    if decision.outcome == DIFFERENCE:
        return _differs(name, decision, words)
    if decision.outcome == EQUIVALENT and decision.excluded is not None:
        return [
            f"No, {name} {_verb(name, 'make')} no difference that matters: {tuned}, {values} come within "
            f"{words.amount(min(margin, decision.excluded))} of each other on {words.name} (what matters begins at "
            f"{words.number(margin)}).",
            *_small(decision, words),
        ]
    if decision.reason:
        among = [f"Among {values} no difference matters."] if decision.complete else _leading(rows, words)
        return [f"Not decided whether {name} {_verb(name, 'matter')}: {decision.reason}.", *among]
    bound = words.amount(decision.excluded or 0.0)
    return [
        f"No effect of {name} was found on {words.name}: {tuned}, differences of up to {bound} between {values} are not "
        f"excluded, and what matters begins at {words.number(margin)}.",
        *_needed(decision),
    ]


def _verb(name: str, verb: str) -> str:
    """A verb for a factor of one key, or of several."""
    return verb if " and " in name else f"{verb}s"


def _small(decision: Decision, words: Words) -> list[str]:
    """A sure difference that does not matter."""
    sure = [pair for pair in decision.pairs if pair.p_value is not None and pair.p_value < decision.level]
    if not sure:
        return []
    better, worse, much = words.advantage(max(sure, key=lambda pair: abs(pair.difference.estimate)))
    return [f"Small differences are sure, such as that of {better} over {worse}: {much}."]


def _differs(name: str, decision: Decision, words: Words) -> list[str]:
    sure = [pair for pair in decision.pairs if pair.p_value is not None and pair.p_value < decision.level]
    largest = max(sure, key=lambda pair: abs(pair.difference.estimate))
    if decision.winner is not None:
        won = [pair for pair in sure if decision.winner in (pair.a, pair.b)]
        by = [(words.advantage(pair)[1], words.advantage(pair)[2]) for pair in won]
        return [f"Yes, {name} {_verb(name, 'matter')}: {decision.winner} is best on {words.name}, by {_each_by(by)}."]
    better, worse, by_much = words.advantage(largest)
    tied = [f"{listed(list(decision.best))} cannot be told apart."] if len(decision.best) > 1 else []
    return [
        f"Yes, {name} {_verb(name, 'matter')}: {better} is better than {worse} by {by_much} on {words.name}.",
        *tied,
    ]


def _each_by(pairs: Sequence[tuple[str, str]]) -> str:
    return listed([f"{much} over {other}" for other, much in pairs])


def _values(rows: Sequence[ComparedSetting]) -> str:
    """The values of a factor in a sentence: `rank 4, 8 and 16`."""
    keys = {tuple(row.value) for row in rows}
    if len(keys) == 1 and len(next(iter(keys))) == 1:
        (key,) = next(iter(keys))
        return f"{key.replace('_', ' ')} {listed([value_text(row.value[key]) for row in rows])}"
    return listed([str(row.name) for row in rows])


def _leading(rows: Sequence[ComparedSetting], words: Words) -> list[str]:
    known = [row for row in rows if row.stable and row.mean is not None and math.isfinite(row.mean)]
    best = words.metric.direction.best(known, key=lambda row: row.mean or 0.0)
    if best is None or best.mean is None:
        return []
    return [f"So far {best.name} is ahead, with {words.name} {words.number(best.mean)}."]


def _needed(decision: Decision) -> list[str]:
    if decision.needed is not None:
        return [f"About {count(decision.needed, 'seed')} each would decide it, if these estimates hold."]
    if decision.needs_texts:
        return ["More seeds would not decide it: more texts to judge on would."]
    return []


def about_best(
    decision: Decision,
    rows: Sequence[ComparedSetting],
    points: Mapping[str, Mapping[str, Any]],
    reference: str,
    metric: Metric,
    margin: float,
) -> list[str]:
    """What is found of the best trials beside the reference, the answer first; `points` are the settings of each by name."""
    words = Words(metric)

    def settings(name: str) -> str:
        """What a side is, by the settings in which it differs from the reference."""
        own, other = points[name], points[reference]
        return point_text({key: value for key, value in own.items() if value != other.get(key)}) or point_text(own)

    if decision.winner is not None and decision.winner != reference:
        won = next(pair for pair in decision.pairs if decision.winner in (pair.a, pair.b))
        _, _, much = words.advantage(won)
        small = f", which is less than what matters ({words.number(margin)})" if decision.outcome == EQUIVALENT else ""
        beside = f"the reference ({point_text(points[reference])})"
        return [f"{settings(decision.winner)} is better than {beside} by {much} on {words.name}{small}."]
    if decision.winner == reference:
        return [
            f"The reference ({point_text(points[reference])}) is better on {words.name} than what the search found."
        ]
    if not decision.pairs or decision.excluded is None:
        return [f"Not decided: {decision.reason}.", *_leading(rows, words)]
    pair = max(decision.pairs, key=lambda one: abs(one.difference.estimate))
    _, _, much = words.advantage(pair)
    what = f"{settings(pair.a)} against the reference ({point_text(points[reference])})"
    if decision.outcome == EQUIVALENT:
        return [
            f"No difference that matters: {what} differ by {much} on {words.name}, surely less than {words.amount(margin)}."
        ]
    if decision.seeds < LEAST:
        return [f"Not decided: {decision.reason}.", f"{what}: {much} on {words.name}."]
    return [
        f"No better setting than the reference was found: {what} differ by {much} on {words.name}.",
        *_needed(decision),
    ]


def evidence(decision: Decision, metric: Metric, scope: str) -> list[str]:
    """At most three lines: the largest difference, the test over all, what it holds for."""
    words, lines = Words(metric), []
    known = [pair for pair in decision.pairs if pair.difference.low is not None]
    sure = [pair for pair in known if pair.p_value is not None and pair.p_value < decision.level]
    if known:
        pair = max(sure or known, key=lambda one: abs(one.difference.estimate))
        better, worse, much = words.advantage(pair)
        p = "" if pair.p_value is None else f", {p_text(pair.p_value)}"
        many = f", corrected for {len(decision.pairs)} comparisons" if len(decision.pairs) > 1 else ""
        lines.append(
            f"Largest {'sure ' if sure else ''}difference: {better} before {worse} by {much} on {words.name}{p}{many}."
        )
    if decision.excluded is not None:
        lines.append(
            f"Differences of more than {words.amount(decision.excluded)} are excluded at the level {decision.level:.3g}."
        )
    return [*lines, scope]


def p_text(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def scope_text(decision: Decision, texts: str, fresh: str) -> str:
    """What a comparison holds for."""
    measured = f"Measured by {fresh} on {texts}"
    if decision.outcome == UNDECIDED:
        return f"{measured}."
    several = any(pair.difference.texts for pair in decision.pairs)
    return f"{measured}; it holds for {'other seeds and other texts' if several else 'other seeds on these texts'}."


def visible(decision: Decision, metric: Metric) -> str:
    """What so many seeds on these texts can see, by the widest interval; nothing where no interval is known."""
    confidence = 1 - decision.level / max(1, len(decision.pairs))
    found = [
        (quantile(confidence, one.df) + quantile(2 * POWER - 1, one.df)) * one.se
        for pair in decision.pairs
        if (one := pair.difference).se is not None and one.df is not None and pair.p_value is not None
    ]
    if not found or decision.seeds < LEAST:
        return ""
    least = Words(metric).amount(max(found))
    seeds = count(decision.seeds, "seed")
    return f"With {seeds} each on these texts, differences from about {least} on are seen in 80% of cases."


def mattered(effects: Effects, metric: Metric, factor: Sequence[str]) -> str:
    """What mattered among the other settings, as an exploration; nothing where it is not known."""
    found = [row for row in effects.rows if row.key not in factor]
    if not found:
        return ""
    row, words = max(found, key=lambda one: one.share), Words(metric)
    if row.difference_low <= 0:
        return ""
    key = str(row.key)
    much, low, high = map(words.number, (row.difference, row.difference_low, row.difference_high))
    return (
        f"Of the other settings, {key.replace('_', ' ')} mattered most: {setting_text(key, row.best)} before {row.worst} "
        f"by about {much} [{low}, {high}] {metric.unit}".rstrip()
        + f" (exploratory, over {effects.trials} trials)."
    )
