"""chrF (Popović 2015) by sacrebleu, kept as counts so that any resample of the examples is scored without counting again."""

import functools
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.chrf import CHRF

BETA_SQUARED = CHRF.BETA**2


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF, 0 to 100, with sacrebleu's default settings; raise ValueError for lists of unlike or no length."""
    return float(chrf_from_statistics(sentence_statistics(hypotheses, references).sum(axis=0)))


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return (N, 18) counts: for each order 1 to 6, n-grams of the hypothesis, of the reference, and in both."""
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"There are {len(hypotheses)} hypotheses and {len(references)} references, but chrF needs pairs"
        )
    return np.asarray(_scorer(tuple(references))._extract_corpus_statistics(hypotheses, None), dtype=np.float64)


@functools.lru_cache(maxsize=8)
def _scorer(references: tuple[str, ...]) -> CHRF:
    """A scorer that has counted its references: each evaluation, and each way of the baselines, is held against the same."""
    return CHRF(references=[references])


def chrf_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """Return the chrF (...,) of summed counts (..., 18): F-beta (beta 2) of mean precision and mean recall.

    An order counts only where both sides have n-grams of it, as in sacrebleu's effective order.
    """
    hypothesis, reference, both = (statistics[..., i::3] for i in range(3))
    counts = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(counts.sum(axis=-1), 1)
    precision = _mean_ratio(both, hypothesis, counts, orders)
    recall = _mean_ratio(both, reference, counts, orders)
    denominator = BETA_SQUARED * precision + recall
    score = (1 + BETA_SQUARED) * precision * recall
    return np.asarray(100.0 * np.divide(score, denominator, out=np.zeros_like(score), where=denominator > 0))


def _mean_ratio(part: np.ndarray, whole: np.ndarray, counts: np.ndarray, orders: np.ndarray) -> np.ndarray:
    ratio = np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=counts)
    return np.asarray(ratio.sum(axis=-1) / orders)
