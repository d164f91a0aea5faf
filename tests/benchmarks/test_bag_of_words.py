"""The baseline that needs no GPT-2."""

from pathlib import Path

import pytest

from gpt2core.data.corpus import Row
from tests import course
from tests.benchmarks.bag_of_words import features, main, scores


def test_words_that_tell_the_class_are_learnt() -> None:
    rows = [Row(id=str(n), text=f"{('dull', 'fine')[n % 2]} film", label=n % 2) for n in range(40)]
    found = scores(rows[:30], rows[30:], 2, strength=1.0)
    assert found == {"majority class": (50.0, pytest.approx(100 / 3)), "bag of words": (100.0, 100.0)}


def test_a_pair_is_what_it_shares_and_what_it_does_not() -> None:
    assert features(Row(id="1", text="Who am", second="who is")) == [
        "both who", "one am", "one is", "one who am", "one who is",
    ]  # fmt: skip


def test_every_task_of_classification_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data-dir", str(course.folder(tmp_path))])
    printed = capsys.readouterr().out
    assert printed.count("bag of words: accuracy") == 3
    assert "quora: 12 train, 7 dev" in printed
