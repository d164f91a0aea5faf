"""Scores of pairs: lengths, ROUGE-L and numbers; a pair that cannot be scored costs no other pair its scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.distill.critics.overlap import Overlap
from gpt2core.distill.scores import numbers, score_pairs
from gpt2core.distill.shards import PAIRS, QUARANTINE
from gpt2core.distill.text import words
from gpt2core.errors import ConfigError
from gpt2core.metrics.rouge import rouge_l

SENTENCES = st.lists(st.sampled_from(["the", "Cat", "cat", "sat", "on", "mat", ",", "!"]), max_size=9).map(" ".join)


@pytest.mark.parametrize(("x", "y", "ratio"), [("abcd", "ab", 0.5), ("ab", "abcd", 2), ("", "abcd", math.inf)])
def test_the_length_ratio_is_of_the_second_to_the_first(x: str, y: str, ratio: float) -> None:
    (row,), _ = score_pairs([pair(1, x, y)], Overlap())
    assert row["length_ratio"] == ratio


@pytest.mark.parametrize(("text", "expected"), [
    ("Don't STOP, please!", ["don", "t", "stop", "please"]),
    ("stra\u00dfe snake_case 3rd", ["strasse", "snake", "case", "3rd"]),
    ("cafe\u0301", ["caf\u00e9"]),
    (" ?! ", []),
])  # fmt: skip
def test_words_ignore_case_and_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def slow_rouge_l(x: str, y: str) -> float:
    """The textbook's table: L[i][j] is the longest common subsequence of the first i and j words."""
    a, b = words(x), words(y)
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a, start=1):
        for j, other in enumerate(b, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    common = table[-1][-1]
    if not common:
        return float(a == b == [])
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)


@given(x=SENTENCES, y=SENTENCES)
def test_rouge_l_equals_the_textbook_algorithm(x: str, y: str) -> None:
    assert rouge_l(x, y) == pytest.approx(slow_rouge_l(x, y))
    assert rouge_l(x, y) == rouge_l(y, x)


@pytest.mark.parametrize(("x", "y", "score"), [
    ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004
    ("police killed the gunman", "the gunman kill police", 2 / 4), ("The cat sat.", "the CAT sat", 1.0),
    ("the cat", "the cat sat on the mat", 2 * 2 / 8), ("cat", "dog", 0.0), ("", "cat", 0.0), ("?", "!", 1.0),
])  # fmt: skip
def test_rouge_l_of_hand_computed_examples(x: str, y: str, score: float) -> None:
    assert rouge_l(x, y) == pytest.approx(score)


@pytest.mark.parametrize(("text", "found"), [
    ("It cost 1,000 dollars, or 1000.00.", {"1000"}),
    ("12,345,678.50 and 0.5 and .5 and 007", {"12345678.5", "0.5", "7"}),
    ("1,2,3 and 1,0000", {"1", "2", "3", "0"}), ("It ended at 10.", {"10"}),
    ("Twenty-five, twenty five or TWENTY\u2011FIVE", {"25"}), ("twenty, five", {"20", "5"}),
    ("one thousand, two and three, or 1000", {"1000", "2", "3"}), ("five hundred and six", {"506"}),
    ("twelve hundred men and a hundred more", {"1200", "100"}),
    ("two million three hundred thousand and five", {"2300005"}),
    ("ten billion is not ten million", {"10000000000", "10000000"}), ("No one saw it; one of us did.", set()),
    ("5 m\u00b2 of land", {"5"}), ("the 3rd of COVID-19's 2020s", {"3", "19", "2020"}),
    ("someone often weighs tons, the second time", {"2"}),
    ("9" * 6000, {"9" * 6000}),  # int refuses as many digits
    ("", set()),
])  # fmt: skip
def test_numbers_are_read_from_digits_and_words(text: str, found: set[str]) -> None:
    assert numbers(text) == found


def spelled(number: int) -> str:
    """A number below 10^12 in words."""
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    names = [*small.split(), "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    for value, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= value:
            rest = number % value
            joint = " and " if rest and rest < 100 else " "
            return f"{spelled(number // value)} {name}" + (joint + spelled(rest) if rest else "")
    if number < 20:
        return names[number]
    return tens[number // 10] + (f"-{names[number % 10]}" if number % 10 else "")


@given(number=st.integers(2, 10**12 - 1) | st.integers(2, 3000))
def test_every_number_is_read_as_it_is_spelled(number: int) -> None:
    assert numbers(f"They saw {spelled(number)} of them.") == {str(number)}
    assert numbers(spelled(number)) == numbers(f"{number:,}")


@pytest.mark.parametrize(("x", "y", "same"), [
    ("5 of us went", "five of the 12 of us went", False),
    ("five of the 12 of us went", "5 of us went", False),
    ("five of the 12 of us went", "12 were we, and 5 went; 5!", True),
    ("5 of us went", "none", False),
    ("none", "nothing", True),
    ("It took 10 days", "It took 11 days", False),
])  # fmt: skip
def test_numbers_are_compared_in_both_directions(x: str, y: str, same: bool) -> None:
    (row,), _ = score_pairs([pair(1, x, y)], Overlap())
    assert row["numbers"] is same


def pair(number: int, first: str, second: str) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"{number:03}", "context": "c", "round": 1, "first": 0, "second": number}
    return row | {"sentence1": first, "sentence2": second}


class Fake:
    identity = {"critic": "fake"}  # noqa: RUF012
    stand_in = "a fake"

    def __init__(self, scores: dict[str, float | BaseException]) -> None:
        self.scores, self.calls = scores, list[int]()

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        self.calls.append(len(premises))
        found = [self.scores.get(premise, 0.5) for premise in premises]
        for score in found:
            if isinstance(score, BaseException):
                raise score
        return np.array(found)


def test_a_pair_is_scored_in_both_directions() -> None:
    (row,), bad = score_pairs([pair(1, "Two dogs bark", "2 dogs bark loudly now")], Fake({"Two dogs bark": 0.25}))
    assert bad == []
    assert row["forward"] == 0.25
    assert row["backward"] == 0.5
    assert row["critic"] == 0.375
    assert row["length_ratio"] == 22 / 13
    assert row["rouge_l"] == pytest.approx(2 * 2 / 8)
    assert row["numbers"] is True
    assert list(row) == PAIRS.names
    assert pa.Table.from_pylist([row], PAIRS).to_pylist() == [row]


def test_a_real_critic_sees_the_premise_first() -> None:
    (row,), _ = score_pairs([pair(1, "dogs bark loudly", "dogs bark")], Overlap())
    assert row["forward"] == 1.0
    assert row["backward"] == pytest.approx(2 / 3)


def test_no_pairs_need_no_critic() -> None:
    critic = Fake({})
    assert score_pairs([], critic) == ([], [])
    assert critic.calls == []


@pytest.mark.parametrize("side", ["sentence1", "sentence2"])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_only_rows_that_fail_are_quarantined(count: int, side: str) -> None:
    rows = [pair(number, f"a {number}", f"b {number}") for number in range(count)]
    poisonous = sorted({0, count // 2, count - 1})
    scores: dict[str, float | BaseException] = {f"a {number}": number / 100 for number in range(count)}
    scores |= {rows[number][side]: RuntimeError(f"number {number} is poison") for number in poisonous}
    scored, bad = score_pairs(rows, Fake(scores))
    healthy = [number for number in range(count) if number not in poisonous]
    assert [row["id"] for row in scored] == [f"{number:03}" for number in healthy]
    assert [row["forward"] for row in scored] == [number / 100 for number in healthy]
    assert bad == [
        {
            "stage": "pairs",
            "id": f"{number:03}",
            "text": f"a {number}\nb {number}",
            "error": f"RuntimeError: number {number} is poison",
        }
        for number in poisonous
    ]
    assert pa.Table.from_pylist(bad, QUARANTINE).to_pylist() == bad


def test_one_bad_row_of_many_is_found_by_halving() -> None:
    rows = [pair(number, f"a {number}", f"b {number}") for number in range(1024)]
    critic = Fake({"a 700": ValueError("poison")})
    scored, bad = score_pairs(rows, critic)
    assert (len(scored), len(bad)) == (1023, 1)
    assert len(critic.calls) == 1 + 2 * 10


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.01, 1.01])
@pytest.mark.parametrize("side", ["a 1", "b 1"])
def test_an_invalid_score_is_quarantined(score: float, side: str) -> None:
    rows = [pair(number, f"a {number}", f"b {number}") for number in range(3)]
    critic = Fake({side: score})
    scored, (bad,) = score_pairs(rows, critic)
    assert [row["id"] for row in scored] == ["000", "002"]
    assert bad["id"] == "001"
    assert bad["error"].startswith("ValueError: The critic's scores are ")
    assert critic.calls == [6]


@pytest.mark.parametrize("error", [
    KeyboardInterrupt(),
    MemoryError(),
    torch.OutOfMemoryError("no memory"),
    torch.AcceleratorError("the device is lost"),
    ConfigError("another tokenizer is needed"),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_errors_that_concern_no_single_row_are_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        score_pairs([pair(1, "a", "b"), pair(2, "c", "d")], Fake({"c": error}))


def test_a_row_without_a_sentence_is_quarantined() -> None:
    scored, bad = score_pairs([pair(1, "a dog", None), pair(2, "a dog", "a cat")], Overlap())
    assert [row["id"] for row in scored] == ["002"]
    assert bad[0]["error"].startswith("TypeError: ")


def test_a_critic_that_returns_too_few_scores_is_rejected() -> None:
    class Short(Fake):
        def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
            return np.zeros(len(premises) // 2)

    scored, bad = score_pairs([pair(1, "a", "b"), pair(2, "c", "d")], Short({}))
    assert scored == []
    assert len(bad) == 2
