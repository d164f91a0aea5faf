"""The order of trials by texts at the run's own decoding setting, and by texts at the best one, see `gpt2core.tasks.writing`."""

from collections.abc import Sequence

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.decoding.settings import DECODING, choice_text
from gpt2core.metrics.counts import from_json
from gpt2core.metrics.metric import OWN_SETTING, Metric
from gpt2core.naming import words
from searches.formatting import count, point_text
from searches.plan import Plan
from searches.running.events import Report
from searches.running.ledger import State, Trial
from searches.summary import DecodingOrder, DecodingRow, Score

DRAWS = 1000  # of the bootstrap over texts
LEVEL = 0.05

#: A trial, its epoch by the best decoding, and counts (2, N, S) at the own setting and at the best one.
Scored = tuple[Trial, Report, np.ndarray]


def decoding_order(plan: Plan, state: State) -> DecodingOrder | None:
    """Return both orders of the searched trials; None if no trial has texts of two decodings."""
    metric = _metric(plan, state)
    scored = _scored(plan, state, metric) if metric else []
    if metric is None or metric.score is None or not scored:
        return None
    counts = np.stack([pair for _, _, pair in scored], axis=1)  # (2, trials, N, S)
    own, best = metric.score(counts.sum(axis=2))
    ranks = [_ranks(metric.direction.sign * scores) for scores in (own, best)]
    rows = [
        DecodingRow(
            trial=trial.name,
            point=trial.point,
            rank_fixed=int(rank_own),
            rank_best=int(rank_best),
            score_fixed=float(score_own),
            score_best=float(score_best),
            settings=choice_text(RunConfig.of(trial.run), *report.tables[DECODING]),
        )
        for (trial, report, _), rank_own, rank_best, score_own, score_best in zip(
            scored, *ranks, own, best, strict=True
        )
    ]
    rows.sort(key=lambda row: (row.rank_best, row.trial))
    tau = kendall(counts, metric)
    return DecodingOrder(metric=metric.name, rows=rows, tau=tau, text=_text(rows, metric, tau, counts.shape[2]))


def kendall(counts: np.ndarray, metric: Metric) -> Score | None:
    """Return Kendall's tau-b between two orders of trials, given counts (2, trials, N, S); None if it is undefined.

    The interval is that of percentiles of a bootstrap over texts, the same ones for all trials.
    """
    from scipy.stats import kendalltau  # SciPy takes half a second to import

    assert metric.score is not None
    _, trials, texts, _ = counts.shape
    if trials < 2:
        return None
    random = np.random.default_rng(0)
    weights = np.vstack([np.ones(texts), random.multinomial(texts, np.full(texts, 1 / texts), size=DRAWS)])
    scores = metric.score(np.einsum("dn,otns->dots", weights, counts))
    taus = np.array([kendalltau(own, best).statistic for own, best in scores])
    if np.isnan(taus[0]):
        return None
    low, high = np.nanquantile(taus[1:], [LEVEL / 2, 1 - LEVEL / 2])
    return Score(estimate=float(taus[0]), low=float(low), high=float(high))


def _metric(plan: Plan, state: State) -> Metric | None:
    """Return the metric with scores of both decodings: the one by which settings were chosen."""
    reports = [report for trial in state.searched for report in trial.counted.values()]
    names = {name for report in reports for name in report.statistics or {}}
    both = [metric for metric in plan.metrics.values() if {metric.counts, f"{metric.counts}{OWN_SETTING}"} <= names]
    return plan.metric if plan.metric in both else next(iter(both), None)


def _scored(plan: Plan, state: State, metric: Metric) -> list[Scored]:
    """Return the searched trials that have texts of both decodings; each decoding chooses its best epoch if it can."""
    scored = []
    for trial in state.searched:
        pair, report = [], None
        for ending in (OWN_SETTING, ""):
            objective = f"{metric.name}{ending}" if metric == plan.metric else plan.objective
            report = trial.best(objective, plan.direction)
            statistics = from_json((report and report.statistics) or {})
            pair += [
                of.sum(axis=0, dtype=np.float64)
                for name, of in statistics.items()
                if name == f"{metric.counts}{ending}"
            ]
        if report is not None and len(pair) == 2:
            scored.append((trial, report, np.stack(pair)))
    return scored


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return the ranks of scores (n,), the highest first; equal scores share the best of their ranks."""
    return np.asarray(1 + (scores > scores[:, None]).sum(axis=1))


def _text(rows: Sequence[DecodingRow], metric: Metric, tau: Score | None, texts: int) -> str:
    """Return in sentences whether another trial is best, and how far the orders agree; `rows` are sorted by the best decoding."""
    best, fixed = rows[0], min(rows, key=lambda row: (row.rank_fixed, row.trial))
    other = " and" if best.rank_fixed == 1 else f", but {_named(fixed)}"
    first = (
        f"The best trial by {words(metric.name)} is {_named(best)} with the best decoding{other} with fixed decoding."
    )
    if tau is None:
        return first
    return (
        f"{first} Kendall's tau between the two orders of {count(len(rows), 'trial')} is {tau.estimate:.2f} "
        f"[{tau.low:.2f}, {tau.high:.2f}] (bootstrap over {count(texts, 'text')})."
    )


def _named(row: DecodingRow) -> str:
    return f"trial {row.trial} ({point_text(row.point)})"
