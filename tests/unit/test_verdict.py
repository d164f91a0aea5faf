"""What a search may claim: several finalists against the baseline, limits, and the test split that is touched once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gpt2core.errors import UserError
from searches.deciding import final
from searches.deciding.final import final_test
from searches.deciding.method import Method, limit
from searches.deciding.simulation import MemoryLedger
from searches.deciding.strategy import Strategy, new_study
from searches.deciding.verdict import holm, summarise
from searches.question import Plan, make_plan
from searches.running.ledger import COMPLETED, Trial
from searches.sentiment import SEARCH
from trainables.trial import TrialSpec

EXAMPLES = 300


def searched(accuracy: Mapping[str, float], *, confirm: int = 2, method: Method | None = None) -> tuple[Plan, Strategy]:
    """A finished search whose trials, and their replicates, answer so many of 300 questions right."""
    plan = make_plan(SEARCH, "quick", trials=len(accuracy), replicates=2, confirm=confirm, method=method or Method())
    strategy = Strategy(plan, MemoryLedger(), new_study("s", None, plan))
    strategy.ledger.record({"event": "lag", "trials": 1})
    while isinstance(trial := strategy.next(), Trial):
        share = accuracy[trial.of or trial.name]
        event = {"event": "report", "trial": trial.name, "epoch": trial.epochs, "statistics": answers(share)}
        metrics = {"accuracy": 100 * share, "trainable_parameters": 1000 * share}
        strategy.report(trial, {**event, "metrics": metrics})
        strategy.end(trial, COMPLETED, None)
    return plan, strategy


def answers(share: float) -> list[list[list[float]]]:
    right = np.arange(EXAMPLES) < round(share * EXAMPLES)
    return np.stack([right, np.ones(EXAMPLES)], axis=1)[None].tolist()  # type: ignore[no-any-return]


def summary(plan: Plan, strategy: Strategy) -> dict[str, Any]:
    return summarise(plan, strategy.ledger.state, "s", "toy", {})


def test_the_best_of_several_that_are_surely_better_wins() -> None:
    found = summary(*searched({"0000": 0.5, "0001": 0.7, "0002": 0.8}))["verdict"]
    assert found["winner"] == "0002"
    assert found["compared"] == ["0002", "0001", "0000"]
    assert [row["trial"] for row in found["comparisons"]] == ["0002", "0001"]
    assert all(row["p_value"] < 0.05 < row["difference"] for row in found["comparisons"])
    assert "(Holm, 2 compared)" in found["text"]


def test_equals_have_no_winner_and_a_baseline_that_beats_all_wins() -> None:
    assert summary(*searched({"0000": 0.7, "0001": 0.7, "0002": 0.7}))["verdict"]["winner"] is None
    worse = summary(*searched({"0000": 0.9, "0001": 0.7, "0002": 0.6}))["verdict"]
    assert worse["winner"] == "0000"
    assert worse["text"].startswith("trial 0000 wins")


def test_what_keeps_no_limit_is_not_compared() -> None:
    method = Method(limits=(limit("parameters<=750"),))
    plan, strategy = searched({"0000": 0.5, "0001": 0.7, "0002": 0.8}, method=method)
    found = summary(plan, strategy)
    assert found["verdict"]["compared"] == ["0001", "0000"]
    assert found["best"]["id"] == "0001"
    assert [row["feasible"] for row in found["trials"][:3]] == [True, True, False]
    nobody = Method(limits=(limit("parameters<=1"),))
    assert (
        "no trial keeps parameters<=1"
        in summary(*searched({"0000": 0.5, "0001": 0.7}, method=nobody))["verdict"]["text"]
    )


def test_holm_keeps_the_order_and_is_never_below_what_it_corrects() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_the_test_split_is_touched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, strategy = searched({"0000": 0.5, "0001": 0.7}, confirm=1)
    spec = TrialSpec(name="", run=plan.config(plan.search.baseline), folder="")
    asked: list[list[str]] = []

    def score_all(specs: list[TrialSpec]) -> list[dict[str, Any]]:
        asked.append([one.name for one in specs])
        shares = {"0000": 0.55, "0001": 0.65}
        return [{"metrics": {}, "statistics": answers(shares[one.name[:4]])} for one in specs]

    monkeypatch.setattr(final, "score_all", score_all)
    assert summary(plan, strategy)["test"] is None
    final_test(plan, strategy.ledger, spec, "trials")
    final_test(plan, strategy.ledger, spec, "trials")
    assert asked == [["0001-r1", "0001-r2", "0000-r1", "0000-r2"]]
    found = summary(plan, strategy)["test"]
    assert found["scores"]["0001"]["estimate"] == pytest.approx(65)
    assert found["estimate"] == pytest.approx(10)
    assert "On the test split, touched once: accuracy of trial 0001 65.00" in found["text"]

    strategy.ledger.state.tests.pop("0001-r1")
    with pytest.raises(
        UserError, match="The test split was scored before, for 0001-r2, 0000-r1, 0000-r2, and it can be"
    ):
        final_test(plan, strategy.ledger, spec, "trials")
