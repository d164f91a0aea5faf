"""The answer of a search: what was compared, decided by its runs, in words that hold the values; and the test split."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2core.errors import UserError
from gpt2core.metrics.counts import to_json
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import LOSSES
from searches.deciding import final_scores
from searches.deciding.comparing import Comparing
from searches.deciding.confirmation import expected_best, fix_design
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, UNDECIDED
from searches.deciding.final_scores import final_test
from searches.deciding.method import Method, limit
from searches.deciding.replay_backend import MemoryLedger
from searches.deciding.strategy import DONE, Strategy
from searches.learning_rate import SEARCH as OF_NO_FACTOR
from searches.lora_rank import SEARCH as OF_RANK
from searches.plan import Plan, make_plan
from searches.question import Search
from searches.running.ledger import COMPLETED, DIVERGED, Ledger, RawEvent, Trial
from tests.summaries import summary_of
from trainables.trial import TrialSpec

TEXTS, TOKENS = 40, 100
RUN_SD, TEXT_SD = 0.01, 0.02

#: The expected dev loss of a trial.
Losses = Callable[[Trial], float]


def counts(loss: float, seed: str) -> dict[str, Any]:
    """Counts of a run: nats, tokens and characters of each text; runs and texts vary, texts the same way for all runs."""
    of_run = np.random.default_rng(list(seed.encode()))
    of_text = np.random.default_rng(0).normal(0, 0.5, TEXTS)
    losses = loss + of_run.normal(0, RUN_SD) + of_text + of_run.normal(0, TEXT_SD, TEXTS)
    return {"loss": np.stack([losses * TOKENS, np.full(TEXTS, TOKENS), np.full(TEXTS, 4 * TOKENS)], axis=1)[None]}


def searched(
    losses: Losses, search: Search = OF_RANK, fails: str = "", ended: str = DIVERGED, **changes: Any
) -> tuple[Plan, Strategy]:
    plan = make_plan(search, "quick", **{"trials": 8, "replicates": 3, **changes})
    strategy = Strategy(plan, MemoryLedger())
    strategy.ledger.record({"event": "lag", "trials": 1})
    while isinstance(trial := strategy.next(), Trial):
        if trial.name == fails:
            strategy.end(trial, ended, "the loss is nan")
            continue
        finish(strategy, trial, losses)
    return plan, strategy


def finish(strategy: Strategy, trial: Trial, losses: Losses) -> None:
    made = counts(losses(trial), trial.name)
    scores = {name: float(of.score(made["loss"].sum(axis=(0, 1)))) for name, of in LOSSES.items() if of.score}
    scores["trainable_parameters"] = 1000.0 * trial.run["rank"]
    report = {"event": "report", "trial": trial.name, "epoch": trial.epochs, "statistics": to_json(made)}
    strategy.report(trial, {**report, "metrics": scores})
    strategy.end(trial, COMPLETED, None)


def summary(plan: Plan, strategy: Strategy) -> dict[str, Any]:
    return summary_of(plan, strategy.ledger.state)


def answer(losses: Losses, **changes: Any) -> dict[str, Any]:
    return dict(summary(*searched(losses, **changes))["answer"])


def by_rank(losses: Mapping[int, float]) -> Losses:
    return lambda trial: losses[trial.run["rank"]]


SAME = by_rank(dict.fromkeys((4, 8, 16, 32), 4.3))


UPPER = dataclasses.replace(OF_RANK, upper_reference={"rank": 32})


def test_an_upper_reference_is_shown_but_cannot_win() -> None:
    plan, strategy = searched(by_rank({4: 4.5, 8: 4.4, 16: 4.5, 32: 4.0}), search=UPPER)
    found = summary(plan, strategy)["answer"]
    assert found["text"].startswith("Yes, rank matters: rank 8 has the best dev loss, ahead of rank 4 by 0.")
    assert "Upper reference, not a candidate: rank 32; rank 32 is better than rank 8 by 0." in found["text"]
    assert [row["upper_reference"] for row in found["rows"]] == [False, False, False, True]
    assert not any("rank 32" in (pair["a"], pair["b"]) for pair in found["pairs"])
    assert plan.level_of(strategy.ledger.state.trials[found["winner"]].point).name == "rank 8"
    assert found["chosen"] == found["winner"]


def test_an_upper_reference_is_not_among_the_compared_values() -> None:
    found = answer(SAME, search=UPPER)
    assert found["outcome"] == EQUIVALENT
    assert "rank 4, 8 and 16 are within" in found["text"]


def test_an_upper_reference_is_not_chosen_without_fresh_seeds_either() -> None:
    plan, strategy = searched(by_rank({4: 4.5, 8: 4.4, 16: 4.5, 32: 4.0}), search=UPPER, replicates=0)
    found = summary(plan, strategy)["answer"]
    assert found["winner"] is None
    assert plan.level_of(strategy.ledger.state.trials[found["chosen"]].point).name == "rank 8"


def test_a_factor_that_matters_is_answered_with_its_values() -> None:
    found = answer(by_rank({4: 4.5, 8: 4.5, 16: 4.5, 32: 4.3}))
    assert found["outcome"] == DIFFERENCE
    assert found["decided"]
    assert found["text"].startswith("Yes, rank matters: rank 32 has the best dev loss, ahead of rank 4 by 0.")
    assert [row["name"] for row in found["rows"]] == ["rank 4", "rank 8", "rank 16", "rank 32"]
    assert found["winner"] == found["rows"][3]["trial"] == found["chosen"]
    assert found["best"] == ["rank 32"]
    assert len(found["pairs"]) == 6
    assert found["test"]["p_value"] < 0.05
    assert [len(row["runs"]) for row in found["rows"]] == [3] * 4


def test_values_that_tie_are_said_to_tie() -> None:
    found = answer(by_rank({4: 4.6, 8: 4.6, 16: 4.3, 32: 4.3}))
    assert found["winner"] is None
    assert set(found["best"]) == {"rank 16", "rank 32"}
    assert "do not differ significantly" in found["text"]
    assert found["chosen"] in {row["trial"] for row in found["rows"][2:]}


def test_a_factor_that_does_not_matter_is_said_to_be_within_the_margin() -> None:
    found = answer(SAME, comparing=Comparing(margin=0.2), replicates=5)
    assert found["outcome"] == EQUIVALENT
    assert found["text"].startswith("No, rank makes no difference that matters:")
    assert found["excluded"] < 0.2
    assert found["winner"] is None


def test_what_is_not_decided_says_how_many_seeds_it_would_take() -> None:
    found = answer(by_rank({4: 4.3, 8: 4.3, 16: 4.29, 32: 4.3}), comparing=Comparing(margin=0.004))
    assert found["outcome"] == UNDECIDED
    assert not found["decided"]
    assert found["text"].startswith("No effect of rank on dev loss was found: with the other settings tuned")
    assert found["seeds_needed"] is None or found["seeds_needed"] > 3
    assert "is detected with 80% power" in found["text"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_name_nobody(seeds: int) -> None:
    found = answer(by_rank({4: 9.0, 8: 9.0, 16: 9.0, 32: 4.3}), replicates=seeds)
    assert found["winner"] is None
    assert found["outcome"] == UNDECIDED
    assert ("the variance between runs is unknown" if seeds == 1 else "3 runs each are needed") in found["text"]
    assert found["test"]["p_value"] is None
    assert "So far, rank 32 leads with dev loss 4." in found["text"]


def test_a_value_with_a_diverged_run_cannot_win_and_is_named() -> None:
    losses = by_rank({4: 4.5, 8: 4.5, 16: 4.5, 32: 4.0})
    best = next(row["trial"] for row in answer(losses)["rows"] if row["name"] == "rank 32")
    found = answer(losses, fails=f"{best}-r2")
    row = found["rows"][3]
    assert (row["stable"], row["failed"]) == (False, [f"{best}-r2"])
    assert found["winner"] != best
    assert found["chosen"] != best
    assert "rank 32 is unstable: 1 run on a fresh seed failed (the loss is nan), so it cannot win." in found["notes"]
    assert all("rank 32" not in (pair["a"], pair["b"]) for pair in found["pairs"])


def test_seeds_are_added_until_it_is_decided_and_no_longer() -> None:
    plan, strategy = searched(by_rank({4: 4.1, 8: 4.5, 16: 4.5, 32: 4.5}), replicates=6, until_decided=True)
    found = summary(plan, strategy)["answer"]
    assert found["looks"] == [3, 4, 5, 6]
    assert found["seeds"] == 3
    assert found["outcome"] == DIFFERENCE
    assert found["test"]["level"] < 0.01, "the first look has little of the whole level"
    undecided = answer(SAME, comparing=Comparing(margin=0.001), replicates=4, until_decided=True)
    assert undecided["seeds"] == 4
    assert undecided["outcome"] == UNDECIDED


def test_kills_and_resumes_change_nothing_of_a_comparison_that_looks_again(tmp_path: Path) -> None:
    losses = by_rank({4: 4.5, 8: 4.5, 16: 4.5, 32: 4.47})
    plan = make_plan(OF_RANK, "quick", trials=8, replicates=6, until_decided=True)
    expected = summary(*searched(losses, replicates=6, until_decided=True))["answer"]
    assert 3 < expected["seeds"] <= 6
    for kills in range(200):
        with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
            strategy = Strategy(plan, ledger)
            fix_design(plan, ledger)
            for _ in range(1 + kills % 3):
                trial = strategy.next()
                if isinstance(trial, Trial) and kills % 2:  # else it is killed before its report
                    finish(strategy, trial, losses)
            if strategy.next() == DONE:
                break
    assert kills > 10
    assert summary_of(plan, ledger.state)["answer"] == expected


def test_a_comparison_that_has_begun_is_not_planned_anew(tmp_path: Path) -> None:
    plan, strategy = searched(SAME)
    fix_design(plan, strategy.ledger)
    fix_design(plan, strategy.ledger)
    more = make_plan(OF_RANK, "quick", trials=8, replicates=5)
    words = r"planned with looks after \[3\] seeds, and has begun; other values of --replicates"
    with pytest.raises(UserError, match=words):
        fix_design(more, strategy.ledger)


def one_rate(good: float) -> Losses:
    return lambda trial: 4.3 if trial.point["lr"] != 5e-5 else 4.3 + good


def test_without_a_factor_the_best_is_compared_with_the_reference() -> None:
    changes = {"search": OF_NO_FACTOR, "trials": 4}
    better = answer(one_rate(0.3), **changes)
    assert better["factor"] is None
    assert better["winner"] == better["rows"][0]["trial"] != "0000"
    assert "is better than the reference (lr 5e-05) by 0." in better["text"]
    worse = answer(one_rate(-0.3), **changes)
    assert worse["winner"] == "0000"
    assert worse["text"].startswith("The reference (lr 5e-05) has a better dev loss")
    assert answer(one_rate(0.0), **changes)["winner"] is None
    several = answer(one_rate(0.3), **changes, confirm=2)
    assert [row["name"] for row in several["rows"]][-1] == "trial 0000"
    assert len(several["pairs"]) == 2


def test_what_keeps_no_limit_is_not_compared() -> None:
    method = Method(limits=(limit("parameters<=8000"),))
    plan, strategy = searched(by_rank({4: 4.5, 8: 4.4, 16: 4.3, 32: 4.2}), method=method)
    found = summary(plan, strategy)
    assert [row["name"] for row in found["answer"]["rows"] if row["trial"]] == ["rank 4", "rank 8"]
    assert found["best"]["point"]["rank"] == 8
    assert "no trial satisfies parameters<=1" in answer(SAME, method=Method(limits=(limit("parameters<=1"),)))["text"]


def test_even_the_best_is_laid_beside_a_trivial_baseline() -> None:
    plan, strategy = searched(SAME)
    strategy.ledger.state.baselines = {"bigram": {"meaning": "a bigram model", "scores": {"dev_loss": [4.1, 0.0]}}}
    (note,) = summary(plan, strategy)["answer"]["notes"]
    assert note.startswith("Even the best setting (dev loss 4.")
    assert note.endswith("is no better than a trivial baseline (a bigram model: 4.100).")
    strategy.ledger.state.baselines["bigram"]["scores"]["dev_loss"][0] = 6.0
    assert summary(plan, strategy)["answer"]["notes"] == []


def test_each_metric_says_how_well_it_tells_settings_apart() -> None:
    plan, strategy = searched(by_rank({4: 5.0, 8: 4.8, 16: 4.6, 32: 4.4}))
    assert {row["metric"]: row for row in summary(plan, strategy)["reliability"]}["dev_loss"]["reliability"] > 0.9
    assert {row["metric"]: row for row in summary(*searched(SAME))["reliability"]}["dev_loss"]["reliability"] < 0.9


def test_the_expected_best_of_k_trials_is_the_mean_of_the_best_of_all_draws() -> None:
    scores = [3.0, 1.0, 2.0]
    best_of_two = np.mean([max(a, b) for a in scores for b in scores])
    assert expected_best(scores, Direction.MAX) == pytest.approx([2.0, best_of_two, 2.667], abs=1e-3)
    assert expected_best(scores, Direction.MIN)[0] == pytest.approx(2.0)
    assert expected_best(scores, Direction.MIN)[-1] < 1.5


def scores_on_test(monkeypatch: pytest.MonkeyPatch, losses: Mapping[str, float]) -> list[list[str]]:
    """Let the runs of each trial have its loss on the test split; return the names that are asked for, call by call."""
    asked: list[list[str]] = []

    def score_all(specs: list[TrialSpec]) -> list[dict[str, Any]]:
        asked.append([one.name for one in specs])
        return [{"metrics": {}, "statistics": to_json(counts(losses[name[:4]], name))} for name in asked[-1]]

    monkeypatch.setattr(final_scores, "score_all", score_all)
    return asked


def test_the_test_split_is_touched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, strategy = searched(one_rate(0.3), search=OF_NO_FACTOR, trials=2)
    spec = TrialSpec(name="", run=plan.config(plan.search.reference), folder="")
    asked = scores_on_test(monkeypatch, {"0000": 4.8, "0001": 4.4})
    assert summary(plan, strategy)["test"] is None
    final_test(plan, strategy.ledger, spec, "trials")
    final_test(plan, strategy.ledger, spec, "trials")
    assert asked == [[f"{name}-r{number}" for name in ("0001", "0000") for number in (1, 2, 3)]]
    found = summary(plan, strategy)["test"]
    assert found["scores"]["0001"]["estimate"] == pytest.approx(4.4, abs=0.2)
    assert "On the test split, scored once: dev loss of trial 0001 4." in found["text"]

    more = Trial(**{**vars(strategy.ledger.state.trials["0001-r1"]), "name": "0001-r4"})
    strategy.ledger.state.trials["0001-r4"] = more
    with pytest.raises(UserError, match=r"The test split was scored before, for 0000-r1, 0000-r2, .*, 0001-r3, and"):
        final_test(plan, strategy.ledger, spec, "trials")


@pytest.mark.parametrize("records", range(8))
def test_a_kill_while_the_test_split_is_scored_locks_nothing(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    plan, strategy = searched(one_rate(0.3), search=OF_NO_FACTOR, trials=2)
    spec = TrialSpec(name="", run=plan.config(plan.search.reference), folder="")
    asked = scores_on_test(monkeypatch, {"0000": 4.0, "0001": 4.0})
    whole, before = strategy.ledger.record, list[RawEvent]()

    def record(event: RawEvent) -> None:
        if len(before) == records:
            raise KeyboardInterrupt
        before.append(event)
        whole(event)

    with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
        killed.setattr(strategy.ledger, "record", record)
        final_test(plan, strategy.ledger, spec, "trials")
    assert len(before) == min(records, 7)
    final_test(plan, strategy.ledger, spec, "trials")
    names = {f"{name}-r{number}" for name in ("0001", "0000") for number in (1, 2, 3)}
    assert set(strategy.ledger.state.tests) == set().union(*asked) == names
    assert summary(plan, strategy)["test"] is not None


def test_the_test_split_judges_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, strategy = searched(one_rate(0.0), search=OF_NO_FACTOR, trials=2, comparing=Comparing(on="test"))
    spec = TrialSpec(name="", run=plan.config(plan.search.reference), folder="")
    scores_on_test(monkeypatch, {"0000": 4.8, "0001": 4.4})
    final_test(plan, strategy.ledger, spec, "trials")
    found = summary(plan, strategy)
    assert found["answer"]["winner"] == "0001", "dev says that they are the same"
    assert found["test"] is None


def test_a_plan_says_what_it_compares() -> None:
    plan = make_plan(OF_RANK, "quick", trials=10, replicates=3)
    assert (plan.compares_each, plan.compared, plan.trials, plan.replicates) == (True, 4, 12, 12)
    two = make_plan(OF_RANK, "quick", confirm=2, replicates=3)
    assert (two.compares_each, two.compared) == (False, 3)
    assert dataclasses.asdict(plan.design) == {"looks": (3,)} if plan.design else False
