"""Splits are divided by content, independent of row order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies

from gpt2core.data import dividing
from gpt2core.data.dividing import SMALL, fold_numbers, halves, in_first_half, without_fold
from gpt2core.data.tokens import Tokens
from gpt2core.errors import ConfigError
from gpt2core.testing import toys

#: Texts as tokens, few or many, with duplicates.
TEXTS = strategies.lists(strategies.lists(strategies.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=150)
FOLDS = strategies.integers(2, 6)


def tokens(texts: list[list[int]], labels: list[int] | None = None) -> Tokens:
    lengths = np.array([len(text) for text in texts])
    return Tokens(
        ids=[str(number) for number in range(len(texts))],
        texts=[str(text) for text in texts],
        values=np.concatenate([np.array(text, dtype=np.int32) for text in texts]),
        starts=lengths.cumsum() - lengths,
        lengths=lengths,
        labels=np.array(labels or [0] * len(texts)),
        given=np.zeros(len(texts), dtype=int),
    )


def held(part: Tokens) -> Counter[tuple[int, ...]]:
    return Counter(tuple(part[number]) for number in range(len(part)))


@given(TEXTS, strategies.randoms(use_true_random=False))
def test_halves_are_disjoint_complete_and_the_same_in_any_order_of_the_rows(texts, random) -> None:  # type: ignore[no-untyped-def]
    first, rest = halves(tokens(texts))
    assert sorted([*first.ids, *rest.ids], key=int) == [str(number) for number in range(len(texts))]
    assert list(map(int, first.ids)) == sorted(map(int, first.ids)), "in the order of the split"
    assert not held(first) & held(rest), "equal texts together"
    shuffled = list(texts)
    random.shuffle(shuffled)
    again, others = halves(tokens(shuffled, labels=[random.randrange(2) for _ in texts]))
    assert (held(again), held(others)) == (held(first), held(rest)), "labels decide nothing"


@given(TEXTS)
def test_the_first_half_is_half_except_for_equal_texts_at_the_border(texts: list[list[int]]) -> None:
    first, rest = halves(tokens(texts))
    if len(texts) < SMALL:
        assert not len(rest)
        return
    largest = max(Counter(map(tuple, texts)).values())
    assert -(-len(texts) // 2) <= len(first) < -(-len(texts) // 2) + largest


@given(strategies.sets(strategies.binary(min_size=4, max_size=4), min_size=SMALL, max_size=100), strategies.data())
def test_a_new_text_moves_only_texts_at_the_border(result: set[bytes], data: strategies.DataObject) -> None:
    texts = sorted(result)
    new = data.draw(strategies.binary(min_size=4, max_size=4).filter(lambda text: text not in result))
    before = dict(zip(texts, in_first_half(np.array(texts, dtype=object)), strict=True))
    after = dict(zip([*texts, new], in_first_half(np.array([*texts, new], dtype=object)), strict=True))
    assert sum(before[text] != after[text] for text in texts) <= 1


@given(TEXTS, FOLDS, strategies.randoms(use_true_random=False))
def test_folds_are_disjoint_complete_even_and_the_same_in_any_order(texts, folds, random) -> None:  # type: ignore[no-untyped-def]
    groups = Counter(map(tuple, texts))
    if len(groups) < folds:
        words = f"`folds` is {folds}, but must be at most {len(groups)}, the number of distinct"
        with pytest.raises(ConfigError, match=words):
            without_fold(tokens(texts), folds, 1)
        return
    parts = [without_fold(tokens(texts), folds, fold) for fold in range(1, folds + 1)]
    assert sum((held(left_out) for _, left_out in parts), Counter()) == groups, "each is scored once"
    for rest, left_out in parts:
        assert held(rest) + held(left_out) == groups
        assert not held(rest) & held(left_out), "what is scored was not trained on"
    sizes = [len(left_out) for _, left_out in parts]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= max(groups.values())
    shuffled = list(texts)
    random.shuffle(shuffled)
    again = [held(without_fold(tokens(shuffled), folds, fold)[1]) for fold in range(1, folds + 1)]
    assert again == [held(left_out) for _, left_out in parts]


def test_folds_of_different_texts_differ_by_one_text_at_most() -> None:
    sizes = Counter(fold_numbers(np.array([bytes([n]) for n in range(11)], dtype=object), 4).tolist())
    assert sorted(sizes.values()) == [2, 3, 3, 3]


def test_data_is_divided_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.data(train=13, dev=8)
    assert data.divided(toys.RUN).splits.keys() == data.splits.keys()
    assert not len(data.confirmation_part()), "too few to divide"
    monkeypatch.setattr(dividing, "SMALL", 8)
    searched = data.divided(toys.RUN.but(dev_part="search")).splits
    assert (len(searched["dev"]), len(searched["confirmation"])) == (4, 4)
    assert set(searched["dev"].texts) | set(searched["confirmation"].texts) == set(data.splits["dev"].texts)
    folded = data.divided(toys.RUN.but(folds=3, fold=2)).splits
    assert (len(folded["train"]), len(folded["fold"])) in ((9, 4), (8, 5))
    assert not set(folded["train"].texts) & set(folded["fold"].texts)
