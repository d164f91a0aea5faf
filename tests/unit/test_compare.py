"""Two searches side by side: only runs on fresh seeds and the same texts are compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2core.metrics.comparison import difference
from searches import api
from searches.__main__ import main
from searches.deciding.confirmation import judged, runs_of_metric
from searches.running.ledger import read_state
from searches.showing.compare_picture import BestSoFar
from tests.ledgers import options_of, write_ledger
from tests.runs import status

#: Flags of each search. All but the first differ from it in a way that forbids a comparison.
SEARCHES = {
    "one": [],
    "decayed": ["--set", "weight_decay=0.1"],
    "unconfirmed": ["--replicates", "0"],
    "by-loss": ["--objective", "dev_loss"],
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("storage")
    for name, flags in SEARCHES.items():
        options = options_of(8, storage, "--sampler", "random", "--replicates", "3", "--name", name, *flags)
        write_ledger(options, storage / "searches" / name)
    ledger = (storage / "searches" / "one" / "ledger.jsonl").read_text()
    (storage / "searches" / "other-data").mkdir()
    other = ledger.replace(f'"digest": "{"d" * 64}"', f'"digest": "{"e" * 64}"')
    (storage / "searches" / "other-data" / "ledger.jsonl").write_text(other)
    return storage


def compared(storage: Path, capsys: pytest.CaptureFixture[str], *names: str) -> tuple[int, str, str]:
    code = status(lambda: main(["compare", *names, "--storage", str(storage)]))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_difference_is_that_of_the_runs_on_fresh_seeds(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compared(storage, capsys, "one", "decayed", "--json")
    found: dict[str, Any] = json.loads(out)
    sides = []
    for name in ("one", "decayed"):
        options = options_of(8, storage, "--sampler", "random", "--replicates", "3", "--name", name, *SEARCHES[name])
        state = read_state(storage / "searches" / name / "ledger.jsonl")
        scored = [(trial.score(options.plan.objective, options.plan.direction), trial.name) for trial in state.searched]
        best = max(pair for pair in scored if pair[0] is not None)[1]
        runs = runs_of_metric(judged(options.plan, state, best, 3), options.plan.metric)
        assert runs is not None
        sides.append(runs)
    expected = difference(*sides)
    assert code == 0
    assert [found["difference"][part] for part in ("estimate", "low", "high")] == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    assert ["weight_decay", "0", "0.1"] in found["settings"]


def test_the_screen_has_both_searches_their_settings_and_the_answer(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = compared(storage, capsys, "one", "decayed")
    assert code == 0
    assert "weight decay" in out
    assert "The chosen trial of each search" in out
    assert "Measured with 3 fresh seeds per search on " in out


@pytest.mark.parametrize(("other", "words"), [
    ("one", "Both searches are `one`"),
    ("two", "There is no search `two`"),
    ("unconfirmed", r"of unconfirmed was not run on fresh seeds"),
    ("by-loss", "The metric of one and by-loss differ (chrf_continuation; dev_loss)"),
    ("other-data", "The data of one and other-data differ"),
])  # fmt: skip
def test_searches_that_cannot_be_compared_are_refused(
    other: str, words: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = compared(storage, capsys, "one", other)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("file", "begins"), [("both.svg", b"<?xml"), ("both.png", b"\x89PNG"), ("both.PDF", b"%PDF")])
def test_the_picture_has_the_format_of_its_name(
    file: str, begins: bytes, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / file
    code, out, _ = compared(storage, capsys, "one", "decayed", "--plot", str(path))
    assert (code, out.splitlines()[-1]) == (0, f"Plot: {path}")
    assert path.read_bytes().startswith(begins)
    if file.endswith("svg"):
        assert all(words in path.read_text() for words in ("one, trial ", "decayed, trial ", "train loss", "hours"))


@pytest.mark.parametrize(
    ("file", "words"), [("both.jpg", "must end in .svg, .png, .pdf"), ("no/a.svg", "choose another --plot")]
)
def test_a_picture_that_cannot_be_written_is_refused(
    file: str, words: str, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = compared(storage, capsys, "one", "decayed", "--plot", str(tmp_path / file))
    assert (code, out) == (2, "")
    assert words in err


def test_the_best_score_so_far_is_that_of_the_trials_that_have_ended(storage: Path) -> None:
    options = options_of(8, storage, "--sampler", "random", "--replicates", "3", "--name", "one")
    course = BestSoFar(options.plan)
    state = read_state(storage / "searches" / "one" / "ledger.jsonl", course)
    lines = (storage / "searches" / "one" / "ledger.jsonl").read_text().splitlines()
    ended = [event for event in map(json.loads, lines) if event["event"] == "ended" and "-r" not in event["trial"]]
    scores = [
        state.trials[event["trial"]].score(options.plan.objective, options.plan.direction) or 0.0 for event in ended
    ]
    assert course.best == [max(scores[: number + 1]) for number in range(len(scores))]
    assert course.trials == list(range(1, len(scores) + 1))
    assert [3600 * hours for hours in course.hours] == pytest.approx([event["time"] - 2.0 for event in ended])


def test_from_python_a_comparison_is_the_one_that_is_printed(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = api.compare("one", "decayed", str(storage))
    _, out, _ = compared(storage, capsys, "one", "decayed", "--json")
    assert json.loads(json.dumps(comparison.to_dict())) == json.loads(out)
    page = comparison._repr_html_()
    assert str(comparison) == comparison.answer
    assert repr(comparison) == f"<Comparison of one and decayed: {comparison.answer}>"
    assert comparison.answer in page
    assert page.count("<svg") == 1
