"""Diversity of texts: distinct-n (Li et al. 2016) and self-BLEU (Zhu et al. 2018)."""

import re
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

SAMPLE = 200  # texts for self-BLEU, whose cost is quadratic


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of distinct n-grams among all word n-grams of all texts, 0 to 1; 0 if there are none."""
    words = [re.findall(r"\w+(?:['\u2019]\w+)*", text.lower()) for text in texts]
    grams = [tuple(own[start : start + n]) for own in words for start in range(len(own) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def self_bleu(texts: Sequence[str], *, seed: int = 0) -> float:
    """Return the mean sentence BLEU, 0 to 100, of each text against all others: high for similar texts; 0 for fewer than two.

    Of more than SAMPLE texts, SAMPLE are drawn by `seed`. BLEU is sacrebleu's with effective order.
    """
    if len(texts) > SAMPLE:
        drawn = np.random.default_rng(seed).choice(len(texts), SAMPLE, replace=False)
        texts = [texts[place] for place in sorted(drawn)]
    if len(texts) < 2:
        return 0.0
    scorer = BLEU(effective_order=True)
    others = ([*texts[:place], *texts[place + 1 :]] for place in range(len(texts)))
    scores = [scorer.sentence_score(text, list(rest)).score for text, rest in zip(texts, others, strict=True)]
    return float(np.mean(scores))
