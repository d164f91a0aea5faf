"""Hard negatives: rejected pairs that share many words."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpt2core.config import Thresholds
from gpt2core.distill.acceptance import accepted_rows
from gpt2core.distill.filters import filter_pairs
from gpt2core.distill.hard_negatives import hard_negatives
from gpt2core.distill.shards import PAIRS

HARD = {"length_ratio": 1.0, "forward": 0.1, "backward": 0.2, "rouge_l": 0.6, "numbers": True, "critic": 0.15}
ACCEPTED = {"forward": 0.9, "backward": 0.9, "critic": 0.9}

ALL = Thresholds()


def pair(name: str, first: str | None = None, second: str | None = None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "context": name, "round": 1, "first": 0, "second": 1}
    return row | {"sentence1": first or f"{name} is one", "sentence2": second or f"{name} is two"} | HARD | changes


def chosen(*rows: dict[str, Any], count: int = 100, thresholds: Thresholds = ALL) -> list[str]:
    filtered = filter_pairs(pa.Table.from_pylist(list(rows), PAIRS), thresholds)
    found = hard_negatives(filtered, accepted_rows(filtered), count)
    assert found.dtype == np.int64
    return [rows[number]["id"] for number in found]


@pytest.mark.parametrize(("changes", "hard"), [
    ({}, True), ({"rouge_l": 0.4}, True), ({"rouge_l": 0.39}, False), ({"forward": 0.49}, True),
    ({"forward": 0.5}, False), ({"backward": 0.49}, True), ({"backward": 0.5}, False),
    ({"forward": 0.8, "backward": 0.1}, False), ({"forward": 0.1, "backward": 0.8}, False),
    ({"length_ratio": 9.0}, False),  # rejected for another reason
    (ACCEPTED, False), (ACCEPTED | {"numbers": False}, False),
])  # fmt: skip
def test_a_hard_negative_shares_words_and_entails_in_no_direction(changes: dict[str, Any], hard: bool) -> None:
    assert chosen(pair("a", **changes)) == (["a"] if hard else [])


def test_either_direction_of_entailment_may_have_rejected_a_hard_negative() -> None:
    low = Thresholds(tau=0.3)
    pairs = pair("a", forward=0.1, backward=0.45), pair("b", forward=0.45, backward=0.1)
    assert chosen(*pairs, thresholds=low) == ["a", "b"]
    assert chosen(pair("c", forward=0.45, backward=0.45, critic=0.2), thresholds=low) == []  # the critic did


def test_the_hardest_come_first_then_the_lowest_id() -> None:
    rows = [pair("c"), pair("b", rouge_l=0.9), pair("a"), pair("d", rouge_l=0.5)]
    assert chosen(*rows) == ["b", "a", "c", "d"]
    assert chosen(*rows[::-1]) == ["b", "a", "c", "d"]
    assert chosen(*rows, count=2) == ["b", "a"]
    assert chosen(*rows, count=0) == []


def test_a_hard_negative_is_not_an_accepted_pair_in_either_order() -> None:
    good = pair("good", "A rose is red.", "Red is a rose.", **ACCEPTED)
    same = pair("same", "a ROSE is red", "red is a rose!")
    swapped = pair("swapped", "Red is a rose", "A rose is red")
    half = pair("half", "A rose is red.", "A rose is dead.")
    assert chosen(good, same, swapped, half) == ["half"]
    assert chosen(same, swapped, half, good) == ["half"]


def test_equal_sentences_are_not_a_hard_negative() -> None:
    assert chosen(pair("a", "A rose is red.", "a rose, is RED", rouge_l=1.0)) == []


def test_of_equal_hard_negatives_the_hardest_stays() -> None:
    rows = [pair("a", "p q r", "p q s"), pair("b", "P q s!", "p, q, r", rouge_l=0.7), pair("c", "p q r", "p q t")]
    assert chosen(*rows) == ["b", "c"]
    assert chosen(*rows, count=2) == ["b", "c"]


def test_an_empty_table_has_no_hard_negatives() -> None:
    assert chosen() == []
