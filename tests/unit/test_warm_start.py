"""A search that begins with the best points of earlier ones: these are ordinary trials, and later without their ledgers."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.errors import UserError
from searches.api import flags_of
from searches.deciding.objectives import ranked
from searches.domains import Choice, Domain, IntUniform, LogUniform, Uniform
from searches.options import Options
from searches.running.ledger import read_state
from searches.search_file import search_from
from searches.showing.summary import summarise
from searches.warm_start import _nearest
from tests.ledgers import options_of, write_ledger

FIXED = ["--set", "lr=1", "--set", "alpha=8", "--set", "batch_size=4"]
SEARCHES = {"early": [], "full": ["--set", "adapter=full", "--search", "lr=1e-5..1e-3:log", "--confirm", "1"]}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A search of the rank and the learning rate, and one that has no rank."""
    for name, flags in SEARCHES.items():
        trials = ["--sampler", "random", "--name", name, *flags]
        write_ledger(options_of(12, tmp_path, *trials), tmp_path / "searches" / name)
    return tmp_path


def warm(storage: Path, *flags: str, trials: int = 16, name: str = "late") -> Options:
    return options_of(trials, storage, "--sampler", "random", "--name", name, *flags)


def test_each_value_of_the_factor_gets_the_best_points_first_and_equally_often(storage: Path) -> None:
    options = warm(storage, "--warm-start", "early")
    write_ledger(options, storage / "searches" / "late")
    state = read_state(storage / "searches" / "late" / "ledger.jsonl")
    early = read_state(storage / "searches" / "early" / "ledger.jsonl")
    best = ranked(early.searched, options_of(12, storage, "--sampler", "random", "--name", "early").plan)[:6]
    values = list(
        dict.fromkeys((trial.point["lr"], trial.point["alpha"], trial.point["batch_size"]) for trial in best)
    )[:3]
    origins = [trial.origin for trial in state.searched]
    begun = [trial for trial in state.searched if trial.origin == "warm-start"]
    assert origins[0] == "reference"
    assert origins.index("sampler") > max(place for place, origin in enumerate(origins) if origin == "warm-start")
    assert all((trial.point["lr"], trial.point["alpha"], trial.point["batch_size"]) in values for trial in begun)
    assert Counter(trial.point["rank"] for trial in state.searched) == dict.fromkeys((4, 8, 16, 32), 4)
    each = {rank: {trial.point["lr"] for trial in begun if trial.point["rank"] == rank} for rank in (4, 16, 32)}
    assert len({frozenset(rates) for rates in each.values()}) == 1


def test_a_search_that_has_begun_does_not_need_the_earlier_one(storage: Path) -> None:
    before = warm(storage, "--warm-start", "early")
    write_ledger(before, storage / "searches" / "late")
    shutil.rmtree(storage / "searches" / "early")
    after = warm(storage, "--warm-start", "early", trials=24)
    assert after.plan.digest == before.plan.digest
    assert after.plan.warm_start == before.plan.warm_start
    with pytest.raises(UserError, match="There is no search `early`"):
        warm(storage, "--warm-start", "early", name="other")


def test_the_summary_ranks_the_best_of_them_among_all_trials(storage: Path) -> None:
    options = warm(storage, "--warm-start", "early")
    folder = storage / "searches" / "late"
    write_ledger(options, folder)
    state = read_state(folder / "ledger.jsonl")
    result = summarise(options, state, folder).warm_start
    order = [trial.name for trial in ranked(state.searched, options.plan)]
    assert result is not None
    assert {trial.name for trial in state.searched if trial.origin == "warm-start"} <= set(result.trials)
    assert (result.rank, result.of) == (1 + min(map(order.index, result.trials)), len(order))
    assert f"is rank {result.rank} of {result.of} by chrF continuation" in result.text
    assert "hypothesis" in result.text
    plain = options_of(12, storage, "--sampler", "random", "--name", "early")
    state = read_state(storage / "searches" / "early" / "ledger.jsonl")
    assert summarise(plain, state, storage / "searches" / "early").warm_start is None


def test_what_has_no_place_in_the_new_space_is_said(storage: Path) -> None:
    flags = ["--warm-start", "early", "--search", "lr=1e-7..1e-6:log", "--set", "alpha=7", "--warm-start", "full"]
    early, full = warm(storage, *flags).plan.warm_start
    assert "alpha is not searched here, so its value is dropped" in early.notes
    assert any(
        "is outside of its values here, 1e-07 to 1e-06, log-uniform: lr 1e-06 is tried" in note for note in early.notes
    )
    assert all(point["lr"] == 1e-6 and "alpha" not in point and "rank" not in point for point in early.points)
    assert all(point.keys() == {"lr", "batch_size"} for point in full.points)


@pytest.mark.parametrize(("flags", "words"), [
    (["--warm-start", "erly"], "There is no search `erly` in .*did you mean `early`"),
    (["--warm-start", "late"], "`late` cannot start from its own points"),
    (["--warm-start", "empty"], "`empty` has no trial with a score yet"),
    (["--warm-start", "early", *FIXED], "No point of the search `early` can be tried here: lr is not searched here"),
])  # fmt: skip
def test_a_search_that_gives_no_points_is_refused(flags: list[str], words: str, storage: Path) -> None:
    lines = (storage / "searches" / "early" / "ledger.jsonl").read_text().splitlines(keepends=True)
    (storage / "searches" / "empty").mkdir()
    (storage / "searches" / "empty" / "ledger.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(UserError, match=words):
        warm(storage, *flags)


@pytest.mark.parametrize("stated", ["early", ["early", "full"]])
def test_a_file_and_python_state_it_too(stated: Any, storage: Path) -> None:
    content = {"name": "mine", "question": "?", "warm_start": stated, "scientific": {"lr": "1e-4..1e-2:log"}}
    content |= {"reference": {"lr": 1e-3}, "tasks": {"sonnet": {}}}
    content |= {"profiles": {"quick": {"model": "gpt2-nano", "trials": 4, "replicates": 0}}}
    names = [stated] if isinstance(stated, str) else stated
    assert search_from(content, "mine.toml").warm_start == names
    assert flags_of({"warm_start": stated}) == [word for name in names for word in ("--warm-start", name)]


DOMAINS: st.SearchStrategy[Domain] = st.sampled_from(
    [
        Uniform(0.1, 2.5),
        LogUniform(1e-5, 1e-2),
        IntUniform(2, 9),
        Choice(1, 4, 16),
        Choice("full", "lora"),
        Choice(None, 1.0),
    ]
)
VALUES = st.one_of(
    st.floats(-5, 20), st.integers(-5, 20), st.none(), st.booleans(), st.sampled_from(["full", "last", "r"])
)


@given(DOMAINS, VALUES)
def test_the_nearest_value_is_in_the_domain_and_is_the_value_itself_if_that_is(domain: Domain, value: Any) -> None:
    nearest = _nearest(domain, value)
    assert all(tried in domain for tried in nearest)
    is_whole = isinstance(domain, IntUniform)
    if value in domain and not isinstance(value, bool) and not (is_whole and isinstance(value, float)):
        assert nearest == [value]
    if is_whole:
        assert all(isinstance(tried, int) for tried in nearest)
    json.dumps(nearest)
