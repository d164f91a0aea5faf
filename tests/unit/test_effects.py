"""Which settings mattered: found where they did, and seldom where they did not."""

import time

import numpy as np
import pytest

from gpt2core.metrics.direction import Direction
from searches.deciding.importance import LEAST, effects
from searches.domains import Choice, Domain, LogUniform, Uniform
from searches.summary import TrialRow

SPACE: dict[str, Domain] = {
    "lr": LogUniform(1e-5, 1e-1),
    "rank": Choice(4, 8, 16, 32),
    "alpha": Choice(32.0, "r", None),
    "dropout": Uniform(0.0, 0.3),
}


def trials(count: int, *, seed: int = 0, effect: float = 1.0) -> list[TrialRow]:
    """Trials whose loss has its least at a learning rate of 1e-3, with noise; nothing else matters."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        point = {
            "lr": float(10 ** random.uniform(-5, -1)),
            "rank": (4, 8, 16, 32)[number % 4],
            "alpha": (32.0, "r", None)[int(random.integers(3))],
            "dropout": float(random.uniform(0, 0.3)),
        }
        loss = 4.3 + 0.2 * effect * (np.log10(point["lr"]) + 3) ** 2 + 0.1 * random.normal()
        found.append(TrialRow(id=str(number), status="completed", point=point, score=float(loss)))
    return found


def test_the_setting_that_decides_comes_first_with_its_best_value_and_the_size_of_its_effect() -> None:
    found = effects(trials(60), SPACE, Direction.MIN, ["rank"])
    first, *others = found.rows
    assert first.key == "lr"
    assert first.share > 0.8
    assert 1e-4 < float(first.best) < 1e-2
    assert first.difference_low > 0
    assert first.difference_low < 0.8 < first.difference_high
    assert all(row.difference_low <= 0 for row in others)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert [row.key for row in found.rows if row.factor] == ["rank"]
    assert found.why.startswith("Exploratory, over 60 trials")


def test_more_is_better_where_it_is() -> None:
    rows = [row.model_copy(update={"score": -(row.score or 0.0)}) for row in trials(60)]
    mirrored, same = effects(rows, SPACE, Direction.MAX, []), effects(trials(60), SPACE, Direction.MIN, [])
    assert [row.best for row in mirrored.rows] == [row.best for row in same.rows]
    assert mirrored.rows[0].difference == pytest.approx(same.rows[0].difference)


@pytest.mark.parametrize("count", [8, 16, 40])
def test_where_nothing_matters_a_setting_is_seldom_said_to(count: int) -> None:
    found = [effects(trials(count, seed=seed, effect=0.0), SPACE, Direction.MIN, []) for seed in range(100)]
    assert sum(any(row.difference_low > 0 for row in one.rows) for one in found) <= 10
    assert all("no better than chance" in one.why for one in found if not one.rows)


@pytest.mark.parametrize(("rows", "space", "why"), [
    (trials(LEAST - 1), SPACE, f"7 trials ended with a score, but the importance of settings needs at least {LEAST}"),
    (trials(20), {}, "were not recorded"),
    ([row.model_copy(update={"score": 4.0}) for row in trials(20)], SPACE, "All trials have the same score"),
    ([row.model_copy(update={"score": None}) for row in trials(20)], SPACE, "0 trials ended with a score"),
    ([row.model_copy(update={"score": float("nan")}) for row in trials(20)], SPACE, "0 trials ended with a score"),
], ids=["few", "no space", "constant", "none", "not finite"])  # fmt: skip
def test_it_says_why_it_says_nothing(rows: list[TrialRow], space: dict[str, Domain], why: str) -> None:
    found = effects(rows, space, Direction.MIN, [])
    assert found.rows == []
    assert why in found.why


def test_one_trial_that_went_wrong_does_not_decide() -> None:
    rows = trials(60)
    rows[3].score = 400.0
    found = effects(rows, SPACE, Direction.MIN, [])
    assert found.rows[0].key == "lr"
    assert "1 outlier clipped" in found.why


def test_a_key_that_some_trials_do_not_read_and_one_that_is_constant_are_no_trouble() -> None:
    rows = trials(40)
    for row in rows[::2]:
        del row.point["rank"]
    space = {**SPACE, "batch_size": Choice(8, 16)}
    for row in rows:
        row.point["batch_size"] = 8
    assert {row.key for row in effects(rows, space, Direction.MIN, []).rows} == SPACE.keys()


def test_it_is_the_same_each_time_and_takes_a_moment_for_many_trials() -> None:
    started = time.monotonic()
    rows = trials(10_000)
    assert effects(rows, SPACE, Direction.MIN, []) == effects(rows, SPACE, Direction.MIN, [])
    assert time.monotonic() - started < 30
