"""The filters of pairs: which pairs pass, which duplicate is kept, and the reasons of the others."""

from collections import deque
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpt2core.config import Thresholds
from gpt2core.distill.dedup import bands
from gpt2core.distill.filters import BASIC, FILTERS, filter_pairs
from gpt2core.distill.shards import FILTERED, PAIRS

GOOD = {"length_ratio": 1.0, "forward": 0.9, "backward": 0.9, "rouge_l": 0.5, "numbers": True, "critic": 0.9}
ALL = Thresholds()


def pair(name: str, first: str | None = None, second: str | None = None, **changes: Any) -> dict[str, Any]:
    """A row that every filter keeps, with some changes; its sentences are unique unless given."""
    row: dict[str, Any] = {"id": name, "context": "c", "round": 1, "first": 0, "second": 1}
    return row | {"sentence1": first or f"{name} is one", "sentence2": second or f"{name} is two"} | GOOD | changes


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), PAIRS)


def reasons(*rows: dict[str, Any], thresholds: Thresholds = ALL) -> list[str | None]:
    return filter_pairs(table(*rows), thresholds)["reason"].to_pylist()


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, None), ({"length_ratio": 0.8}, None), ({"length_ratio": 0.799}, "length"),
    ({"length_ratio": 1.5}, None), ({"length_ratio": 1.501}, "length"),
    ({"length_ratio": float("inf")}, "length"), ({"forward": 0.75}, None), ({"forward": 0.749}, "forward"),
    ({"backward": 0.75}, None), ({"backward": 0.749}, "backward"), ({"numbers": False}, "numbers"),
    ({"rouge_l": 0.75}, None), ({"rouge_l": 0.751}, "rouge"), ({"critic": 0.751}, None),
    ({"critic": 0.75}, "critic"),
])  # fmt: skip
def test_each_filter_rejects_values_beyond_its_bound(changes: dict[str, Any], reason: str | None) -> None:
    assert reasons(pair("a"), pair("b", **changes)) == [None, reason]


def test_filters_use_the_thresholds() -> None:
    wide = Thresholds(tau=0.2, max_rouge=1.0, min_length_ratio=0.1, max_length_ratio=9.0)
    row = pair("a", length_ratio=5.0, forward=0.2, backward=0.3, rouge_l=1.0, critic=0.25)
    assert reasons(row, thresholds=wide) == [None]
    assert reasons(row) == ["length"]


def test_the_reason_is_the_first_filter_that_rejects() -> None:
    bad: dict[str, Any] = {"length_ratio": 9, "forward": 0, "backward": 0, "numbers": False, "rouge_l": 1, "critic": 0}
    order = [("length", "length_ratio"), ("forward", "forward"), ("backward", "backward")]
    order += [("numbers", "numbers"), ("rouge", "rouge_l"), ("critic", "critic")]
    for reason, key in order:
        assert reasons(pair("a", **bad)) == [reason]
        bad[key] = GOOD[key]
    assert list(FILTERS) == ["length", "forward", "backward", "duplicate", "numbers", "rouge", "critic"]


def test_basic_is_length_entailment_and_the_critic() -> None:
    assert BASIC == ("length", "forward", "backward", "critic")
    basic = Thresholds(filters="basic")
    same = ("one sentence", "another sentence")
    rows = [pair("a", *same, numbers=False), pair("b", *same, rouge_l=1.0), pair("c", *same)]
    assert reasons(*rows, thresholds=basic) == [None, None, None]
    assert reasons(*rows) == ["duplicate", "duplicate", None]
    assert reasons(pair("a", critic=0.1, numbers=False), thresholds=basic) == ["critic"]


CHAIN = [("p", "q"), ("q", "r"), ("r", "s")]


def test_the_highest_critic_score_of_a_component_is_kept() -> None:
    rows = [pair(str(n), *CHAIN[n], critic=critic) for n, critic in enumerate((0.8, 0.95, 0.9))]
    assert reasons(*rows) == ["duplicate", None, "duplicate"]


def test_in_self_distillation_the_lowest_rouge_is_kept() -> None:
    rows = [pair(str(n), *CHAIN[n], critic=0.8 + n / 100, rouge_l=0.3 - n / 100) for n in range(3)]
    assert reasons(*[row | {"round": 2, "rouge_l": 0.3 + n / 100} for n, row in enumerate(rows)])[0] is None
    assert reasons(*[row | {"round": 1, "rouge_l": 0.3 + n / 100} for n, row in enumerate(rows)])[2] is None


@pytest.mark.parametrize("round", [1, 2])
def test_of_equal_pairs_the_lowest_id_is_kept_in_any_order(round: int) -> None:
    rows = [pair(name, *edge, round=round) for name, edge in zip("bca", CHAIN, strict=True)]
    assert reasons(*rows) == ["duplicate", "duplicate", None]
    assert reasons(*rows[::-1]) == [None, "duplicate", "duplicate"]


@pytest.mark.parametrize("changes", [{"forward": 0.74}, {"backward": 0.74}])
def test_one_direction_of_entailment_does_not_join(changes: dict[str, Any]) -> None:
    rows = [pair("a", "p", "q"), pair("b", "q", "r", **changes), pair("c", "r", "s")]
    filtered = filter_pairs(table(*rows), ALL)
    assert filtered["reason"].to_pylist() == [None, next(iter(changes)), None]
    one, between, other = filtered["component"].to_pylist()
    assert between == -1
    assert one != other
    assert min(one, other) >= 0


def test_a_pair_that_other_filters_reject_still_joins() -> None:
    rows = [pair("a", "p", "q"), pair("b", "q", "r", length_ratio=9.0), pair("c", "r", "s", critic=0.95)]
    filtered = filter_pairs(table(*rows), ALL)
    assert filtered["reason"].to_pylist() == ["duplicate", "length", None]
    assert len(set(filtered["component"].to_pylist())) == 1


@pytest.mark.parametrize("changes", [{"numbers": False}, {"rouge_l": 0.9}, {"critic": 0.6, "forward": 0.75}])
def test_the_best_pair_passes_later_filters_too(changes: dict[str, Any]) -> None:
    best = {"critic": 0.99} | changes
    rows = [pair("a", "p", "q", **best), pair("b", "q", "r", critic=0.8), pair("c", "r", "s", critic=0.85)]
    assert reasons(*rows) == ["duplicate", "duplicate", None]


def test_a_component_without_an_accepted_pair_has_no_duplicates() -> None:
    rows = [pair("a", "p", "q", numbers=False), pair("b", "q", "r", rouge_l=0.9), pair("c", "r", "s", critic=0.7)]
    assert reasons(*rows) == ["numbers", "rouge", "critic"]


def test_components_do_not_span_contexts_or_rounds() -> None:
    rows = [pair(f"{c}{r}", "p", "q", context=c, round=r) for c in "cd" for r in (1, 2)]
    filtered = filter_pairs(table(*rows), ALL)
    assert filtered["reason"].to_pylist() == [None] * 4
    assert len(set(filtered["component"].to_pylist())) == 4


def test_equal_sentences_are_one_node() -> None:
    rows = [pair("a", "p", "q"), pair("b", "p", "r", critic=0.95) | {"first": 2, "second": 3}]
    assert reasons(*rows) == ["duplicate", None]


def test_filtered_keeps_all_columns_and_adds_keys_of_accepted_pairs() -> None:
    rows = [pair("a"), pair("b", forward=0.1), pair("c"), pair("d", numbers=False)]
    filtered = filter_pairs(table(*rows), ALL)
    assert filtered.schema == FILTERED
    assert filtered.select(PAIRS.names).to_pylist() == rows
    expected = bands(*([rows[n][side] for n in (0, 2)] for side in ("sentence1", "sentence2")))
    assert filtered["bands"].to_pylist() == [expected[0].tolist(), None, expected[1].tolist(), None]
    filtered.validate(full=True)
    assert filter_pairs(filtered, ALL).equals(filtered)


def test_the_memory_layout_of_a_table_does_not_matter() -> None:
    rows = [pair(str(n), *CHAIN[n % 3], critic=0.8 + n / 100) for n in range(6)]
    chunked = pa.concat_tables([table(*rows[:1]), table(), table(*rows[1:4]), table(*rows[4:])])
    assert filter_pairs(chunked, ALL).equals(filter_pairs(table(*rows), ALL))
    assert filter_pairs(table(pair("x"), *rows).slice(1), ALL).equals(filter_pairs(table(*rows), ALL))


def test_an_empty_table_can_be_filtered() -> None:
    filtered = filter_pairs(table(), ALL)
    assert filtered.schema == FILTERED
    assert len(filtered) == 0


def slow_components(rows: list[dict[str, Any]], tau: float) -> list[int]:
    """The first row of each row's component by a breadth-first search over sentences; -1 if the row spans two components."""
    near: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in rows:
        one, other = ((row["context"], row[side]) for side in ("sentence1", "sentence2"))
        near.setdefault(one, set())
        near.setdefault(other, set())
        if row["forward"] >= tau and row["backward"] >= tau:
            near[one].add(other)
            near[other].add(one)
    root: dict[tuple[str, str], int] = {}
    for number, start in enumerate(near):
        queue = deque([start])
        while queue:
            node = queue.popleft()
            if node not in root:
                root[node] = number
                queue.extend(near[node])
    pairs = [[root[row["context"], row[side]] for side in ("sentence1", "sentence2")] for row in rows]
    return [one if one == other else -1 for one, other in pairs]


def slow_reasons(rows: list[dict[str, Any]], component: list[int], t: Thresholds) -> list[str | None]:
    """A slow reference: one pair at a time, as the docstrings say."""
    own: list[list[str]] = []
    for row in rows:
        wrong = {
            "length": not t.min_length_ratio <= row["length_ratio"] <= t.max_length_ratio,
            "forward": row["forward"] < t.tau, "backward": row["backward"] < t.tau, "numbers": not row["numbers"],
            "rouge": row["rouge_l"] > t.max_rouge, "critic": row["critic"] <= t.tau,
        }  # fmt: skip
        own.append([name for name, rejects in wrong.items() if rejects])
    kept: dict[int, tuple[float, str]] = {}
    for row, wrong_names, number in zip(rows, own, component, strict=True):
        if not wrong_names:
            merit = (row["rouge_l"] if row["round"] > 1 else -row["critic"], row["id"])
            kept[number] = min(merit, kept.get(number, merit))
    found: list[str | None] = []
    for row, wrong_names, number in zip(rows, own, component, strict=True):
        early = [name for name in wrong_names if name in ("length", "forward", "backward")]
        if early or number not in kept:
            found.append(next(iter(wrong_names), None))
        else:
            found.append(None if kept[number][1] == row["id"] else "duplicate")
    return found


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_are_filtered_like_the_slow_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = []
    for number in random.permutation(150):
        context = f"c{random.integers(6)}"
        first, second = (f"sentence {n}" for n in random.integers(6, size=2))
        scores = {key: float(random.choice([0.6, 0.7, 0.75, 0.8, 0.9])) for key in ("rouge_l", "critic")}
        scores |= {key: float(random.choice([0.5, 0.75, 0.9])) for key in ("forward", "backward")}
        scores |= {"length_ratio": float(random.choice([0.5, 0.9, 1.0, 1.5])), "numbers": bool(random.random() < 0.8)}
        rows.append(pair(f"{number:03}", first, second, context=context, round=1 + int(context > "c2"), **scores))
    filtered = filter_pairs(table(*rows), ALL)
    expected = slow_components(rows, ALL.tau)
    found = filtered["component"].to_pylist()
    assert [number == -1 for number in found] == [number == -1 for number in expected]
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))
    assert filtered["reason"].to_pylist() == slow_reasons(rows, expected, ALL)
    # Neither does the order of rows matter.
    order = random.permutation(len(rows))
    shuffled = filter_pairs(table(*[rows[n] for n in order]), ALL)
    assert shuffled["reason"].to_pylist() == [filtered["reason"][int(n)].as_py() for n in order]
