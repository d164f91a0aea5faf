"""chrF (Popović 2015) by sacrebleu, as counts per example from which any subset of the examples can be scored."""

import functools
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.chrf import CHRF

BETA_SQUARED = CHRF.BETA**2


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return corpus chrF, 0 to 100, with sacrebleu's defaults; raise ValueError for empty lists or different lengths."""
    return float(chrf_from_statistics(sentence_statistics(hypotheses, references).sum(axis=0)))


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return counts (N, 18): for each order 1 to 6, the n-grams of the hypothesis, of the reference, and of both."""
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"There are {len(hypotheses)} hypotheses and {len(references)} references; chrF needs pairs")
    return np.asarray(_scorer(tuple(references))._extract_corpus_statistics(hypotheses, None), dtype=np.float64)


@functools.lru_cache(maxsize=8)
def _scorer(references: tuple[str, ...]) -> CHRF:
    """Return a scorer with the n-grams of its references; cached, because evaluations and baselines share references."""
    return CHRF(references=[references])


def chrf_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """Return chrF (...) from summed counts (..., 18): F-beta (beta 2) of mean precision and mean recall."""
    hypothesis, reference, both = (statistics[..., i::3] for i in range(3))
    counts = (hypothesis > 0) & (reference > 0)  # the orders that count, as with sacrebleu's effective order
    orders = np.maximum(counts.sum(axis=-1), 1)
    precision = _mean_ratio(both, hypothesis, counts, orders)
    recall = _mean_ratio(both, reference, counts, orders)
    denominator = BETA_SQUARED * precision + recall
    score = (1 + BETA_SQUARED) * precision * recall
    return np.asarray(100.0 * np.divide(score, denominator, out=np.zeros_like(score), where=denominator > 0))


def _mean_ratio(part: np.ndarray, whole: np.ndarray, counts: np.ndarray, orders: np.ndarray) -> np.ndarray:
    ratio = np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=counts)
    return np.asarray(ratio.sum(axis=-1) / orders)
