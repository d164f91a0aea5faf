"""Which of the searched settings mattered, as an exploration: trials were placed by a sampler, and nothing here is confirmed.

A score is taken as a sum of one curve for each key: a step for each choice, or a broken line over a number, on a log scale where
the key has one. The curves are fitted by ridge regression, whose strength leaving one trial out decides. Intervals come from
drawing the trials again (bootstrap); those of differences hold for all keys and all pairs of values together, since the pair
that is shown was chosen for being the largest.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.metrics.direction import Direction
from searches.formatting import count, value_text
from searches.question import Choice, Domain, LogUniform
from searches.summary import EffectRow, Effects, TrialRow

LEAST = 8  # trials
KNOTS = 5  # of a broken line, at quantiles of the values that were tried
DRAWS = 200  # of the bootstrap, and shuffles of the scores
LEVEL = 0.05
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the ridge
FENCE = 1.5  # interquartile ranges beyond the quartile, behind which a bad score counts as no worse (Tukey 1977)

Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """The columns (n, values) of one key in the regression, and the values that they stand for, as text."""

    key: str
    values: list[str]
    columns: Array


def effects(
    rows: Sequence[TrialRow], space: Mapping[str, Domain], direction: Direction, factor: Sequence[str]
) -> Effects:
    """Return how much each key mattered to the `score` of `rows` at their `point`, the most important first, or why it is not
    known. `factor` are the keys that the question is about."""
    known = [row for row in rows if row.score is not None and math.isfinite(row.score)]
    if not space:
        return Effects(trials=len(known), why="The searched settings were not recorded.")
    if len(known) < LEAST:
        return Effects(
            trials=len(known),
            why=f"{count(len(known), 'trial')} ended with a score; {LEAST} are needed to tell settings apart.",
        )
    scores, cut = _fenced(np.array([row.score for row in known], dtype=float), direction)
    if np.ptp(scores) == 0:
        return Effects(trials=len(known), why="All trials have the same score.")
    curves = [
        curve
        for key, domain in space.items()
        if len((curve := _curve(key, domain, [row.point.get(key, _UNUSED) for row in known])).values) > 1
    ]
    design = np.hstack([curve.columns for curve in curves]) if curves else np.zeros((len(known), 0))
    random = np.random.default_rng(0)
    strength, explained, p_value = _strength(design, scores, random)
    said = f"{count(cut, 'very bad score')} counted as no worse than the rest; " if cut else ""
    if p_value > LEVEL:
        return Effects(
            trials=len(known),
            why=f"Over {len(known)} trials, the settings predict the score of a trial that is left out no better than chance "
            f"would ({said}p = {p_value:.2f}).",
        )
    table = _table(curves, _draws(design, scores, strength, random), design, direction, factor)
    why = (
        f"Exploratory, over {len(known)} trials: a sum of one curve for each setting explains {100 * explained:.0f}% of the "
        f"variance of scores of trials that are left out ({said}combinations of settings are not looked at)."
    )
    return Effects(trials=len(known), rows=table, why=why, explained=explained)


class _Unused:
    """In place of a value, where a trial does not read the key."""


_UNUSED = _Unused()


def _fenced(scores: Array, direction: Direction) -> tuple[Array, int]:
    """Scores of which none lies far on the bad side of the rest, and how many did: a few that failed would hide all else."""
    low, high = np.quantile(scores, [0.25, 0.75])
    reach = FENCE * (high - low)
    fenced = np.maximum(scores, low - reach) if direction is Direction.MAX else np.minimum(scores, high + reach)
    return fenced, int((fenced != scores).sum())


def _curve(key: str, domain: Domain, values: list[Any]) -> Curve:
    if isinstance(domain, Choice):
        known = list(dict.fromkeys(map(value_text, [*domain.values, *(v for v in values if v is not _UNUSED)])))
        texts = [None if value is _UNUSED else value_text(value) for value in values]
        columns = np.array([[float(text == one) for one in known] for text in texts])
        tried = np.flatnonzero(columns.any(axis=0))
        return Curve(key, [known[place] for place in tried], columns[:, tried])
    log = isinstance(domain, LogUniform)
    used = np.array([value is not _UNUSED for value in values])
    numbers = np.array([float(value) for value in values if value is not _UNUSED])
    scaled = np.log(numbers) if log else numbers
    knots = np.unique(np.quantile(scaled, np.linspace(0, 1, KNOTS))) if len(scaled) else scaled
    columns = np.zeros((len(values), len(knots)))
    if len(knots):
        columns[used] = np.stack([np.interp(scaled, knots, one) for one in np.eye(len(knots))], axis=1)
    return Curve(key, [f"{value:.2g}" for value in (np.exp(knots) if log else knots)], columns)


def _strength(design: Array, scores: Array, random: np.random.Generator) -> tuple[float, float, float]:
    """The strength that predicts trials that are left out best, the share of variance that it explains so, and its p-value among
    shuffled scores."""
    shuffled = [random.permutation(scores) for _ in range(DRAWS - 1)]
    targets = np.stack([scores, *shuffled], axis=1)
    targets = targets - targets.mean(axis=0)
    n = len(scores)
    left, sizes, _ = np.linalg.svd(design - design.mean(axis=0), full_matrices=False)
    turned = left.T @ targets
    alone = ((targets / (1 - 1 / n)) ** 2).sum(axis=0)
    explained = []
    for strength in STRENGTHS:
        kept = sizes**2 / (sizes**2 + strength)
        leverage = 1 / n + (left**2 @ kept)
        errors = (targets - left @ (kept[:, None] * turned)) / (1 - np.minimum(leverage, 1 - 1e-9))[:, None]
        explained.append(1 - (errors**2).sum(axis=0) / alone)
    best = np.max(explained, axis=0)
    strength = STRENGTHS[int(np.argmax([one[0] for one in explained]))]
    return strength, float(best[0]), float((best >= best[0]).mean())


def _draws(design: Array, scores: Array, strength: float, random: np.random.Generator) -> Array:
    """Coefficients (1 + DRAWS, columns): of all trials, then of trials drawn with replacement."""
    n = len(scores)
    weights = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), size=DRAWS)])
    return np.stack([_ridge(design, scores, own, strength) for own in weights])


def _ridge(design: Array, scores: Array, weights: Array, strength: float) -> Array:
    mean, middle = weights @ design / weights.sum(), weights @ scores / weights.sum()
    centred = design - mean
    weighted = centred * weights[:, None]
    solved = np.linalg.solve(weighted.T @ centred + strength * np.eye(design.shape[1]), weighted.T @ (scores - middle))
    return np.asarray(solved)


def _table(
    curves: list[Curve], draws: Array, design: Array, direction: Direction, factor: Sequence[str]
) -> list[EffectRow]:
    places = np.cumsum([0, *(len(curve.values) for curve in curves)])
    slices = [slice(start, stop) for start, stop in itertools.pairwise(places)]
    parts = np.stack([np.var(design[:, own] @ draws[:, own].T, axis=0) for own in slices])  # (keys, draws)
    shares = parts / np.maximum(parts.sum(axis=0), 1e-300)
    pairs = [(a, b) for own in slices for a in range(own.start, own.stop) for b in range(own.start, a)]
    first, second = (np.array(ends) for ends in zip(*pairs, strict=True))
    gaps = draws[:, first] - draws[:, second]
    spread = gaps[1:].std(axis=0)
    off = np.abs(gaps[1:] - gaps[0]) / np.maximum(spread, 1e-12)
    reach = float(np.quantile(off.max(axis=1), 1 - LEVEL))
    table = []
    for curve, own, share in zip(curves, slices, shares, strict=True):
        heights = direction.sign * draws[0, own]
        best, worst = int(np.argmax(heights)), int(np.argmin(heights))
        gap = float(heights[best] - heights[worst])
        wide = reach * float((draws[1:, own.start + best] - draws[1:, own.start + worst]).std())
        low, high = np.quantile(share[1:], [LEVEL / 2, 1 - LEVEL / 2])
        table.append(
            EffectRow(
                key=curve.key,
                share=float(share[0]),
                low=float(min(low, share[0])),
                high=float(max(high, share[0])),
                best=curve.values[best],
                worst=curve.values[worst],
                difference=gap,
                difference_low=gap - wide,
                difference_high=gap + wide,
                factor=curve.key in factor,
            )
        )
    return sorted(table, key=lambda row: -row.share)
