"""Importance of the searched keys: exploratory, since a sampler placed the trials and nothing is confirmed on fresh seeds.

An additive model predicts the score: a step function for each choice, and a piecewise-linear curve for each number (over its
logarithm for log-uniform keys). It is fitted by ridge regression, with a strength chosen by leave-one-out cross-validation.
Intervals come from a bootstrap over trials; those of differences are simultaneous over all keys and pairs of values, since the
pair with the largest difference is shown.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.metrics.direction import Direction
from searches.domains import Choice, Domain
from searches.formatting import count, value_text
from searches.summary import EffectRow, Effects, TrialRow

LEAST = 8  # trials
KNOTS = 5  # of a piecewise-linear curve, at quantiles of the values tried
DRAWS = 200  # of the bootstrap and of the permutation test
LEVEL = 0.05
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the ridge penalty
FENCE = 1.5  # interquartile ranges beyond the quartile at which bad scores are clipped (Tukey 1977)

Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """A key's columns (n, values) in the regression, and the values that they stand for."""

    key: str
    values: list[str]
    columns: Array


def effects(
    rows: Sequence[TrialRow], space: Mapping[str, Domain], direction: Direction, factor: Sequence[str]
) -> Effects:
    """Return the importance of each key for the `score` of `rows`, largest first, or why it is not known.

    `factor` are the keys that the question is about.
    """
    known = [row for row in rows if row.score is not None and math.isfinite(row.score)]
    trials = len(known)
    if not space:
        return Effects(trials=trials, why="The searched settings were not recorded.")
    if trials < LEAST:
        why = f"{count(trials, 'trial')} ended with a score, but the importance of settings needs at least {LEAST}."
        return Effects(trials=trials, why=why)
    scores, clipped = _clipped(np.array([row.score for row in known], dtype=float), direction)
    if np.ptp(scores) == 0:
        return Effects(trials=trials, why="All trials have the same score.")
    all_curves = [_curve(key, domain, [row.point.get(key, _UNUSED) for row in known]) for key, domain in space.items()]
    curves = [curve for curve in all_curves if len(curve.values) > 1]
    design = np.hstack([curve.columns for curve in curves]) if curves else np.zeros((trials, 0))
    random = np.random.default_rng(0)
    strength, explained, p_value = _strength(design, scores, random)
    outliers = f"{count(clipped, 'outlier')} clipped; " if clipped else ""
    if p_value > LEVEL:
        why = f"Over {trials} trials, the settings predict held-out scores no better than chance ({outliers}p = {p_value:.2f})."
        return Effects(trials=trials, why=why)
    table = _table(curves, _draws(design, scores, strength, random), design, direction, factor)
    why = (
        f"Exploratory, over {trials} trials: an additive model of the settings explains {100 * explained:.0f}% of the variance "
        f"of held-out scores ({outliers}interactions are not modelled)."
    )
    return Effects(trials=trials, rows=table, why=why, explained=explained)


class _Unused:
    """The value of a key that a trial does not read."""


_UNUSED = _Unused()


def _clipped(scores: Array, direction: Direction) -> tuple[Array, int]:
    """Clip scores far on the bad side, as a few failed trials would hide everything else; return how many were clipped."""
    low, high = np.quantile(scores, [0.25, 0.75])
    reach = FENCE * (high - low)
    clipped = np.maximum(scores, low - reach) if direction is Direction.MAX else np.minimum(scores, high + reach)
    return clipped, int((clipped != scores).sum())


def _curve(key: str, domain: Domain, values: list[Any]) -> Curve:
    if isinstance(domain, Choice):
        known = list(dict.fromkeys(map(value_text, [*domain.values, *(v for v in values if v is not _UNUSED)])))
        texts = [None if value is _UNUSED else value_text(value) for value in values]
        columns = np.array([[float(text == value) for value in known] for text in texts])
        tried = np.flatnonzero(columns.any(axis=0))
        return Curve(key, [known[place] for place in tried], columns[:, tried])
    log = domain.is_log
    used = np.array([value is not _UNUSED for value in values])
    numbers = np.array([float(value) for value in values if value is not _UNUSED])
    scaled = np.log(numbers) if log else numbers
    knots = np.unique(np.quantile(scaled, np.linspace(0, 1, KNOTS))) if len(scaled) else scaled
    columns = np.zeros((len(values), len(knots)))
    if len(knots):
        columns[used] = np.stack([np.interp(scaled, knots, unit) for unit in np.eye(len(knots))], axis=1)
    return Curve(key, [f"{value:.2g}" for value in (np.exp(knots) if log else knots)], columns)


def _strength(design: Array, scores: Array, random: np.random.Generator) -> tuple[float, float, float]:
    """Return the ridge strength with the best leave-one-out predictions, its explained share of variance, and the permutation
    p-value of that share."""
    shuffled = [random.permutation(scores) for _ in range(DRAWS - 1)]
    targets = np.stack([scores, *shuffled], axis=1)
    targets = targets - targets.mean(axis=0)
    n = len(scores)
    left, sizes, _ = np.linalg.svd(design - design.mean(axis=0), full_matrices=False)
    turned = left.T @ targets
    null = ((targets / (1 - 1 / n)) ** 2).sum(axis=0)  # errors of the mean of the other trials
    explained = []
    for strength in STRENGTHS:
        kept = sizes**2 / (sizes**2 + strength)
        leverage = 1 / n + (left**2 @ kept)
        errors = (targets - left @ (kept[:, None] * turned)) / (1 - np.minimum(leverage, 1 - 1e-9))[:, None]
        explained.append(1 - (errors**2).sum(axis=0) / null)
    best = np.max(explained, axis=0)
    strength = STRENGTHS[int(np.argmax([shares[0] for shares in explained]))]
    return strength, float(best[0]), float((best >= best[0]).mean())


def _draws(design: Array, scores: Array, strength: float, random: np.random.Generator) -> Array:
    """Return coefficients (1 + DRAWS, columns): of all trials, then of bootstrap samples."""
    n = len(scores)
    weights = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), size=DRAWS)])
    return np.stack([_ridge(design, scores, own, strength) for own in weights])


def _ridge(design: Array, scores: Array, weights: Array, strength: float) -> Array:
    mean, middle = weights @ design / weights.sum(), weights @ scores / weights.sum()
    centred = design - mean
    weighted = centred * weights[:, None]
    gram = weighted.T @ centred + strength * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted.T @ (scores - middle)))


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
