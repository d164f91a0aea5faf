"""How different texts are from each other: distinct-n (Li et al. 2016) and self-BLEU (Zhu et al. 2018)."""

import re
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

SAMPLE = 200  # texts that self-BLEU looks at: its cost grows as their square


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words in units of all of them, over all texts, 0 to 1; 0 where there is none."""
    words = [re.findall(r"\w+(?:['\u2019]\w+)*", text.lower()) for text in texts]
    grams = [tuple(own[start : start + n]) for own in words for start in range(len(own) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def self_bleu(texts: Sequence[str], *, seed: int = 0) -> float:
    """Mean sentence BLEU, 0 to 100, of each text against all others: high where texts are alike; 0 for fewer than two.

    Of more than SAMPLE texts, that many are drawn by `seed`. BLEU is sacrebleu's, of effective order.
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
