"""Diversity equals counts by hand and direct calls of sacrebleu."""

import numpy as np
import pytest
import sacrebleu

from gpt2core.metrics.diversity import distinct_n, self_bleu
from gpt2core.testing import toys


def test_distinct_n_counts_distinct_n_grams_of_all_texts() -> None:
    texts = ["A rose is a rose.", "Is a rose thine?"]
    assert distinct_n(texts, 1) == pytest.approx(4 / 9)
    assert distinct_n(texts, 2) == pytest.approx(4 / 7)  # a rose 3 times, is a twice, rose is, rose thine
    assert distinct_n(texts, 9) == distinct_n([], 1) == 0.0
    assert distinct_n(["I don't", "I don\u2019t"], 2) == 1.0


def test_self_bleu_is_the_mean_of_each_against_the_others() -> None:
    texts = [toys.lines(1, seed) for seed in range(8)]
    others = [[*texts[:place], *texts[place + 1 :]] for place in range(len(texts))]
    expected = [sacrebleu.sentence_bleu(*pair).score for pair in zip(texts, others, strict=True)]
    assert self_bleu(texts) == pytest.approx(sum(expected) / 8)
    assert self_bleu(["The very same text here."] * 3) == pytest.approx(100)
    assert self_bleu(["Alone."]) == self_bleu([]) == 0.0


def test_self_bleu_of_many_texts_uses_a_seeded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.metrics.diversity.SAMPLE", 10)
    texts = [toys.lines(1, seed) for seed in range(60)]
    drawn = sorted(np.random.default_rng(3).choice(60, 10, replace=False))
    assert self_bleu(texts, seed=3) == self_bleu([texts[place] for place in drawn]) != self_bleu(texts, seed=4)
