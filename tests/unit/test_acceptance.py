"""Duplicate pairs of several contexts are accepted once."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpt2core.config import Thresholds
from gpt2core.distill.acceptance import EXACT, NEAR, reject_duplicates
from gpt2core.distill.filters import filter_pairs
from gpt2core.distill.shards import PAIRS
from tests import generated


def filtered(rows: list[dict[str, Any]], parts: int = 1) -> list[pa.Table]:
    places = np.array_split(range(len(rows)), parts)
    tables = [pa.Table.from_pylist([rows[i] for i in place], PAIRS) for place in places]
    return [filter_pairs(table, Thresholds()) for table in tables]


def reasons(rows: list[dict[str, Any]], parts: int = 1, round: int = 1) -> dict[str, str | None]:
    return {
        name: reason
        for table in reject_duplicates(lambda: filtered(rows, parts), round)
        for name, reason in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True)
    }


def like(number: int, other: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A pair of another context with the same sentences."""
    sentences = {key: other[key] for key in ("sentence1", "sentence2")}
    return generated.pair(f"r1-00001-{number:03d}", 0, 1, **sentences, **values)


@pytest.fixture
def original() -> dict[str, Any]:
    return generated.pair("r1-00000-000", 0, 1, critic=0.9, rouge_l=0.4)


def test_pairs_with_equal_words_in_either_order_are_accepted_once(original: dict[str, Any]) -> None:
    swapped = {"sentence1": original["sentence2"].upper(), "sentence2": f"{original['sentence1']}!"}
    assert list(reasons([original, like(1, original), like(2, original) | swapped]).values()) == [None, EXACT, EXACT]


def test_pairs_with_nearly_equal_words_are_accepted_once(original: dict[str, Any]) -> None:
    longer = like(1, original) | {"sentence1": f"{original['sentence1']} Now"}
    assert list(reasons([original, longer]).values()) == [None, NEAR]


def test_the_best_duplicate_has_the_highest_critic_score_or_later_the_lowest_rouge(original: dict[str, Any]) -> None:
    surer = like(1, original, critic=0.95, rouge_l=0.6)
    assert list(reasons([original, surer]).values()) == [EXACT, None]
    assert list(reasons([row | {"round": 2} for row in (original, surer)], round=2).values()) == [None, EXACT]


def test_a_filtered_pair_keeps_its_reason_and_displaces_no_other(original: dict[str, Any]) -> None:
    assert list(reasons([like(1, original, critic=0.99, numbers=False), original]).values()) == ["numbers", None]


def test_acceptance_does_not_depend_on_the_shards() -> None:
    rows = generated.contexts(30)
    rows += [like(40 + n, rows[2 * n]) for n in range(10)]
    whole = reasons(rows)
    assert sum(reason == EXACT for reason in whole.values()) == 10
    for parts in (2, 7, 70):
        assert reasons(rows, parts) == whole


def test_no_pairs_are_accepted_from_an_empty_table() -> None:
    assert [len(table) for table in reject_duplicates(lambda: filtered([]), 1)] == [0]
