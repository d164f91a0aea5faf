"""The n-gram baseline is a proper Kneser-Ney model: its probabilities sum to 1 and agree with slow counting."""

import math
from collections import defaultdict

import numpy as np
import pytest

from gpt2core.metrics.ngram import ngram_losses

VOCABULARY = 7
ORDERS = (1, 2, 3, 4)


def sequences(seed: int, count: int = 12, used: int = VOCABULARY - 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.choice(used, size=random.integers(0, 15)) ** 2 % used for _ in range(count)]


def slow_losses(train: list[np.ndarray], held_out: list[np.ndarray], vocab_size: int, order: int) -> list[list[float]]:
    """A model that follows the definition, with a dictionary of counts per order."""
    occurrences: dict[tuple[int, ...], int] = defaultdict(int)
    neighbours: dict[tuple[int, ...], set[int | None]] = defaultdict(set)
    for sequence in (tuple(sequence.tolist()) for sequence in train):
        for start in range(len(sequence)):
            for end in range(start + 1, min(start + order, len(sequence)) + 1):
                occurrences[sequence[start:end]] += 1
                neighbours[sequence[start:end]].add(sequence[start - 1] if start else None)
    tables: list[dict[tuple[int, ...], int]] = [{}]
    for length in range(1, order + 1):
        grams = [gram for gram in occurrences if len(gram) == length]
        tables.append({gram: occurrences[gram] if length == order else len(neighbours[gram]) for gram in grams})

    def probability(context: tuple[int, ...], token: int) -> float:
        table = tables[len(context) + 1]
        lower = probability(context[1:], token) if context else 1 / vocab_size
        following = [count for gram, count in table.items() if gram[:-1] == context]
        if not following:
            return lower
        ones, twos = (list(table.values()).count(value) for value in (1, 2))
        discount = ones / (ones + 2 * twos) if ones and twos else 0.5
        own = max(table.get((*context, token), 0) - discount, 0)
        return (own + discount * len(following) * lower) / sum(following)

    return [
        [-math.log(probability(tuple(s[max(0, i - order + 1) : i].tolist()), int(s[i]))) for i in range(len(s))]
        for s in held_out
    ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(8))
def test_losses_equal_those_of_slow_counting(seed: int, order: int) -> None:
    train, held_out = sequences(seed, count=1 + 4 * seed), sequences(seed + 100, used=VOCABULARY)
    losses = ngram_losses([np.array([1], np.uint16), *train], held_out, VOCABULARY, order)
    slow = slow_losses([np.array([1]), *train], held_out, VOCABULARY, order)
    assert [len(row) for row in losses] == [len(row) for row in held_out]
    for row, expected in zip(losses, slow, strict=True):
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one_after_seen_and_unseen_contexts(order: int) -> None:
    random = np.random.default_rng(order)
    for seed in range(10):
        train = [np.array([0, 0, 2]), *sequences(seed, used=4)]
        unseen = [random.integers(VOCABULARY, size=length) for length in range(6)]
        for context in [*train, *unseen]:
            asked = [np.append(context, token) for token in range(VOCABULARY)]
            last = np.array([losses[-1] for losses in ngram_losses(train, asked, VOCABULARY, order)])
            assert np.all(np.isfinite(last))
            assert np.exp(-last).sum() == pytest.approx(1, abs=1e-12)


def test_a_bigram_model_by_hand() -> None:
    train = [np.array([0, 1]), np.array([0, 1]), np.array([0, 2])]
    # Bigrams 01 (twice) and 02 (once): D = 1/3. Each unigram has one left neighbour, so no count is 2: D = 1/2.
    unigram = (1 - 1 / 2 + 1 / 2 * 3 / 4) / 3
    (losses,) = ngram_losses(train, [np.array([0, 1, 3])], 4, 2)
    expected = [unigram, (2 - 1 / 3 + 1 / 3 * 2 * unigram) / 3, 1 / 2 * 3 / 3 / 4]
    np.testing.assert_allclose(np.exp(-losses), expected, atol=1e-15)


def test_an_unseen_context_backs_off_completely() -> None:
    after_unseen, alone = ngram_losses([np.array([0, 1, 2, 0, 1, 0, 2])], [np.array([3, 1]), np.array([1])], 4, 3)
    assert after_unseen[-1] == alone[-1]


def test_sequences_have_no_context_over_their_boundaries() -> None:
    train, held_out = sequences(1), sequences(2)
    apart = [ngram_losses(train, [sequence], VOCABULARY, 3)[0] for sequence in held_out]
    together = ngram_losses(train, held_out, VOCABULARY, 3)
    assert all(np.array_equal(a, b) for a, b in zip(apart, together, strict=True))
    shuffled = ngram_losses(train[::-1], held_out, VOCABULARY, 3)
    np.testing.assert_allclose(np.concatenate(shuffled), np.concatenate(together), atol=1e-12)


def test_longer_contexts_help_where_there_is_structure() -> None:
    random = np.random.default_rng(0)
    likely = random.integers(30, size=(30, 30))

    def text(length: int) -> np.ndarray:
        """Return tokens that the two before determine in four cases of five, and the one before narrows down."""
        tokens = [0, 1]
        for _ in range(length):
            sure = random.random() < 0.8
            tokens.append(int(likely[tokens[-2] % 3, tokens[-1]] if sure else random.integers(30)))
        return np.array(tokens)

    train, held_out = [text(2000) for _ in range(5)], [text(500)]
    unigram, bigram, trigram = (ngram_losses(train, held_out, 30, order)[0].mean() for order in (1, 2, 3))
    assert trigram + 0.2 < bigram < unigram - 0.2
    assert unigram < math.log(30)


def test_no_held_out_data_gives_no_losses() -> None:
    assert ngram_losses([np.array([0])], [], 1, 3) == []
    (losses,) = ngram_losses([np.array([0])], [np.array([])], 1, 3)
    assert losses.shape == (0,)


@pytest.mark.parametrize(("train", "held_out", "order", "message"), [
    ([[0]], [[0]], 0, "is 0, but must be at least 1"),
    ([[0]], [[0]], -2, "is -2, but must be at least 1"),
    ([], [[0]], 2, "0 training tokens in 0 sequences, but .* at least 1"),
    ([[], []], [[0]], 2, "0 training tokens in 2 sequences, but .* at least 1"),
    ([[0, 5]], [[0]], 2, "training token id is 5, but ids must be from 0 to 4"),
    ([[0, -1]], [[0]], 2, "training token id is -1, but ids must be from 0 to 4"),
    ([[0]], [[1, 9]], 2, "held-out token id is 9, but ids must be from 0 to 4"),
])  # fmt: skip
def test_invalid_input_is_an_error(train: list[list[int]], held_out: list[list[int]], order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ngram_losses([np.array(ids) for ids in train], [np.array(ids) for ids in held_out], 5, order)
