"""From runs to a decision: each rule by itself."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from gpt2core.metrics.comparison import LEVEL, Runs
from gpt2core.metrics.direction import Direction
from searches.deciding import decision
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, UNDECIDED, Decision, Design, Side, decide, detectable
from searches.deciding.power_simulation import Case, Components, simulate


def side(name: str, mean: float, spread: float = 1.0, seeds: int = 5, failed: Sequence[str] = ()) -> Side:
    """Runs that lie evenly around their mean."""
    return Side(name=name, runs=Runs(scores=mean + np.linspace(-spread, spread, seeds)), failed=failed)


def said(
    *sides: Side, margin: float = 0.5, direction: Direction = Direction.MAX, reference: str | None = None
) -> Decision:
    seeds = min((one.runs.count for one in sides if one.runs), default=1)
    return decide(sides, margin=margin, direction=direction, design=Design.fixed(seeds), reference=reference)


def test_one_run_a_side_says_nothing_of_chance() -> None:
    found = said(side("a", 0, seeds=1), side("b", 100, seeds=1))
    assert (found.outcome, found.winner, found.p_value, found.seeds) == (UNDECIDED, None, None, 1)
    assert "the variance between runs is unknown" in found.reason
    assert found.best == ["b", "a"]


def test_two_runs_have_a_p_and_no_winner() -> None:
    found = said(side("a", 0, 0.01, seeds=2), side("b", 100, 0.01, seeds=2))
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert (found.outcome, found.winner, found.complete) == (UNDECIDED, None, False)
    assert "3 runs each are needed" in found.reason


@pytest.mark.parametrize(("direction", "winner"), [(Direction.MAX, "b"), (Direction.MIN, "a")])
def test_a_difference_names_the_better(direction: Direction, winner: str) -> None:
    found = said(side("a", 0), side("b", 9), direction=direction)
    assert (found.outcome, found.winner, found.complete) == (DIFFERENCE, winner, True)
    assert found.best == [winner]
    assert found.excluded is not None
    assert found.excluded > 9
    assert found.anova is not None


def test_a_difference_need_not_have_a_winner() -> None:
    found = said(side("a", 0), side("b", 9), side("c", 9.1))
    assert (found.outcome, found.winner, found.complete) == (DIFFERENCE, None, False)
    assert found.best == ["c", "b"]
    alike = said(side("a", 0, 0.1), side("b", 9, 0.1), side("c", 9.01, 0.1))
    assert (alike.outcome, alike.winner, alike.complete) == (DIFFERENCE, None, True)


def test_what_differs_by_less_than_the_margin_is_equivalent() -> None:
    found = said(side("a", 0, 0.1), side("b", 0.05, 0.1))
    assert (found.outcome, found.winner, found.complete) == (EQUIVALENT, None, True)
    assert said(side("a", 0, 0.1), side("b", 0.05, 0.1), margin=0.06).outcome == UNDECIDED
    assert said(side("a", 0, 0.1), side("b", 0, 0.1), side("c", 0, 9)).outcome == UNDECIDED


def test_a_side_with_a_failed_run_cannot_win_and_is_compared_with_nobody() -> None:
    found = said(side("a", 0), side("b", 99, failed=["b-r5"]), side("c", 9))
    assert found.winner == "c"
    assert found.unstable == ("b",)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "c")]
    alone = said(side("a", 0), side("b", 99, failed=["b-r5"]))
    assert (alone.outcome, alone.winner, alone.pairs) == (UNDECIDED, None, [])
    assert alone.reason == "fewer than two settings finished all their runs"
    lost = said(side("a", 0), side("b", 9), side("r", 5, failed=["r-r1"]), reference="r")
    assert (lost.outcome, lost.pairs) == (UNDECIDED, [])


def test_against_a_reference_each_is_compared_with_it_alone() -> None:
    found = said(side("a", 20), side("b", 19.9), side("r", 0), reference="r")
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "r"), ("b", "r")]
    assert found.winner == "a"
    worse = said(side("a", -20), side("b", -30), side("r", 0), reference="r")
    assert (worse.outcome, worse.winner, worse.best) == (DIFFERENCE, "r", ["r"])
    one = said(side("a", -0.1), side("b", -30), side("r", 0), reference="r")
    assert (one.outcome, one.winner) == (DIFFERENCE, None)


def test_runs_that_do_not_vary_are_not_decided() -> None:
    found = said(side("a", 1, 0.0), side("b", 2, 0.0))
    assert found.outcome == UNDECIDED
    assert "neither runs nor examples vary" in found.reason


@pytest.mark.parametrize("sds", [(1.0, 1.0, 1.0, 1.0), (0.3, 1.0, 1.0, 3.0)], ids=["equal", "unequal"])
def test_runs_alone_keep_the_familywise_error_rate(sds: tuple[float, ...]) -> None:
    """Where no scores of single texts are known, as of a user's program."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        sides = [Side(name=str(sd_of), runs=Runs(scores=random.normal(0, sd, 3))) for sd_of, sd in enumerate(sds)]
        wrong += said(*sides, margin=0.01).outcome == DIFFERENCE
    assert 0.01 < wrong / 1000 < 0.065


def test_runs_alone_find_a_planted_difference_as_often_as_is_said() -> None:
    random, seeds = np.random.default_rng(0), 3
    effect = detectable(1.0, seeds)
    found = [
        said(*(Side(name=name, runs=Runs(scores=random.normal(mean, 1.0, seeds))) for name, mean in means), margin=0.01)
        for means in [(("a", 0.0), ("b", effect))] * 1000
    ]
    assert 0.74 < sum(decision.winner == "b" for decision in found) / 1000 < 0.84
    assert not any(decision.winner == "a" for decision in found)


def test_a_look_has_the_level_of_the_design() -> None:
    design = Design.until_decided(6)
    assert (design.looks, design.most) == ((3, 4, 5, 6), 6)
    assert Design.until_decided(2).looks == (2,)
    assert design.level(3) < design.level(4) < design.level(6) < LEVEL
    assert design.level(2) == LEVEL
    assert Design.fixed(5).level(5) == pytest.approx(LEVEL, rel=1e-3)
    sides = [side("a", 0, seeds=3), side("b", 2.6, seeds=3)]
    once = decide(sides, margin=0.1, direction=Direction.MAX, design=Design.fixed(3))
    first = decide(sides, margin=0.1, direction=Direction.MAX, design=design)
    assert (once.outcome, first.outcome) == (DIFFERENCE, UNDECIDED)


def needed(difference: float, *, texts: float = 0.0, interaction: float = 0.0) -> tuple[int | None, bool]:
    """Seeds that would decide, by 4 runs whose standard deviation is 1, and texts of some variance."""
    spread = np.array([-1.0, -0.5, 0.5, 1.0])
    scores = spread / spread.std(ddof=1)
    examples = np.resize([1.0, -1.0], 100) * math.sqrt(texts)
    a = Runs(scores=scores + difference, influence=examples, interaction=interaction)
    b = Runs(scores=scores, influence=-examples, interaction=interaction)
    sides = [Side(name="a", runs=a), Side(name="b", runs=b)]
    found = decide(sides, margin=1e-6, direction=Direction.MAX, design=Design.fixed(4))
    assert found.outcome == UNDECIDED
    return found.needed, found.needs_texts


def test_a_smaller_difference_needs_more_seeds() -> None:
    found = [needed(difference)[0] for difference in (1.4, 1.0, 0.7, 0.5, 0.3)]
    assert None not in found
    assert found == sorted(found, key=lambda n: n or 0)
    assert found[0] == 6  # t of 10 df is 2.23, so 1.29 is seen
    assert needed(0.01) == (None, False)
    assert decision.MOST_NEEDED == 200


def test_too_few_texts_are_told_from_too_few_seeds() -> None:
    assert needed(0.5, texts=25.0) == (None, True)
    few, _ = needed(0.5, texts=25.0, interaction=400.0)
    assert few is not None, "it is the interaction that texts seem to vary by, and seeds make it small"


@pytest.mark.parametrize("difference", [0.7, 1.0])
def test_so_many_seeds_decide_about_half_of_such_searches(difference: float) -> None:
    seeds, _ = needed(difference)
    assert seeds is not None
    case = Case(components=Components(run=1.0, examples=1), design=Design.fixed(seeds), margin=1e-6, effect=difference)
    assert simulate(case, 500).right == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("seeds", "difference"), [(2, 5.7), (3, 3.1), (5, 2.0), (10, 1.3)])
def test_what_seeds_can_see(seeds: int, difference: float) -> None:
    assert detectable(1.0, seeds) == pytest.approx(difference, abs=0.06)
    assert detectable(2.0, seeds) == pytest.approx(2 * detectable(1.0, seeds))
    assert detectable(1.0, seeds, pairs=6) > detectable(1.0, seeds)
    assert detectable(1.0, 1) == math.inf
