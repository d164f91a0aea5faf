"""The strategy over real Optuna: known points first, no configuration twice, and the same search whatever its workers do."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from gpt2core.errors import ConfigError
from gpt2core.metrics.direction import Direction
from searches.adapters import SEARCH as ADAPTERS
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method, limit
from searches.deciding.optuna_study import studies
from searches.deciding.replay_backend import Curve, Curves, MemoryLedger, ReplayBackend
from searches.deciding.samplers import SAMPLERS
from searches.deciding.strategy import DONE, WAIT, Strategy, finalists
from searches.domains import Choice, IntUniform
from searches.lora_rank import SEARCH as OF_A_FACTOR
from searches.plan import Plan, make_plan
from searches.question import Case, Search
from searches.running.ledger import COMPLETED, DIVERGED, OUT_OF_MEMORY, Ledger, Trial
from searches.testing import Rebuilt

Open = Callable[[Plan], Strategy]
OBJECTIVE = "chrf_continuation"
BY_CHRF = Comparing(objective=OBJECTIVE)
POPULATION = Method(scheduler="pbt", sampler="random")
SEARCH = dataclasses.replace(OF_A_FACTOR, factor=())  # one sampler for the whole space


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the strategy of a plan, or opens it again as after a kill; ledgers are closed after the test."""
    with ExitStack() as stack:

        def make(plan: Plan) -> Strategy:
            stack.close()
            return Strategy(plan, stack.enter_context(closing(Ledger(tmp_path / "ledger.jsonl"))))

        yield make


def in_memory(plan: Plan) -> Strategy:
    return Strategy(plan, MemoryLedger())


def curves(seed: int = 0, epochs: int = 9) -> Curves:
    def of(trial: Trial) -> Curve:
        run = trial.run
        height = 30 - 3 * abs(math.log10(run["lr"]) + 3) + math.log2(run["rank"]) + run["seed"] % 7 / 10
        scores = [height * (1 - 0.5**epoch) for epoch in range(1, epochs + 1)]
        digest = hashlib.sha256(f"{seed} {trial.name}".encode()).digest()
        times = np.random.default_rng(list(digest)).uniform(0.1, 10, size=epochs)
        metrics = [{OBJECTIVE: s, "trainable_parameters": trial.run["rank"] * 100.0} for s in scores]
        return Curve(metrics=metrics, seconds=times.tolist())

    return of


def ran(plan: Plan, found: Curves | None = None, *, workers: int) -> Strategy:
    strategy = in_memory(plan)
    ReplayBackend(found or curves(), workers=workers).run(strategy)
    return strategy


def plan_of(trials: int = 12, method: Method | None = None, search: Search = SEARCH, **changes: Any) -> Plan:
    changes |= {"settings": {"epochs": "9"}, "trials": trials, "method": method or Method()}
    plan = make_plan(search, "quick", comparing=BY_CHRF, **changes)
    return dataclasses.replace(plan, profile=plan.profile.but(grace=1))


def what_it_did(strategy: Strategy) -> list[Any]:
    return [
        (t.name, t.point, t.origin, t.parent, t.status, t.stopped_at, t.score(OBJECTIVE, Direction.MAX))
        for t in strategy.ledger.state.trials.values()
    ]


def small_plan() -> Plan:
    """A space of 12 points, and more trials than points."""
    space = {"rank": Choice(4, 8, 16), "batch_size": Choice(4, 8, 16, 32)}
    search = dataclasses.replace(
        SEARCH,
        scientific=space,
        nuisance={},
        tasks={"sonnet": Case(study=[{"rank": 4, "batch_size": 8}])},
        reference={"rank": 8, "batch_size": 8},
    )
    return make_plan(search, "quick", comparing=BY_CHRF, trials=50, replicates=0)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_space_of_12_points_gives_12_different_trials_and_then_ends(sampler: str) -> None:
    strategy = ran(dataclasses.replace(small_plan(), method=Method(sampler=sampler)), workers=2)
    points = [(trial.run["rank"], trial.run["batch_size"]) for trial in strategy.ledger.state.searched]
    assert len(points) == len(set(points)) == 12
    assert points[:2] == [(8, 8), (4, 8)]


def test_two_ways_to_write_one_configuration_are_one_trial() -> None:
    search = dataclasses.replace(
        SEARCH,
        nuisance={},
        scientific={"alpha": Choice(32.0, "2r")},
        fixed={**SEARCH.fixed, "rank": 16},
        tasks={"sonnet": Case()},
        reference={"alpha": "2r"},
    )
    strategy = ran(make_plan(search, "quick", comparing=BY_CHRF, trials=5, replicates=0), workers=1)
    assert [trial.run["alpha"] for trial in strategy.ledger.state.searched] == ["2r"]
    assert strategy.ledger.state.duplicates >= 1


def test_each_value_of_the_factor_gets_the_same_trials_and_a_sampler_of_its_own() -> None:
    strategy = ran(plan_of(22, search=OF_A_FACTOR), workers=3)
    trials = strategy.ledger.state.searched
    assert Counter(trial.run["rank"] for trial in trials) == {4: 6, 8: 6, 16: 6, 32: 6}, "22 is rounded up"
    assert [trial.run["rank"] for trial in trials[:8]] == [8, 4, 16, 32, 4, 8, 16, 32], "known points first"
    assert {trial.origin for trial in trials[:4]} == {"reference", "default"}
    assert {trial.origin for trial in trials[4:8]} == {"study"}
    assert [trial.run["rank"] for trial in trials[-4:]] == [4, 8, 16, 32]
    for view in strategy.views.values():
        points = [trial.params for trial in view.study.trials]
        assert len(points) == 6
        assert all("rank" not in point for point in points)
    drawn = [[trial.point["lr"] for trial in trials if trial.run["rank"] == rank][2:] for rank in (4, 8, 16, 32)]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3], "no value is luckier in what is drawn at random"


def test_the_points_of_the_study_leave_each_value_the_same_trials(opened: Open) -> None:
    """They may be of one value alone; those that few trials have no room for are tried when there are more."""
    study = [{"rank": 4, "lr": lr} for lr in (1e-4, 1e-5, 1e-2)]
    search = dataclasses.replace(
        OF_A_FACTOR, scientific={"rank": Choice(4, 8)}, tasks={"sonnet": Case(study=[*study, {"lr": 1e-5}])}
    )
    ran: dict[int, list[tuple[int, float, str]]] = {}
    for trials in (4, 10):
        strategy = opened(plan_of(trials, search=search, replicates=0))
        ReplayBackend(curves(), workers=2).run(strategy)
        ran[trials] = [(t.point["rank"], t.point["lr"], t.origin) for t in strategy.ledger.state.searched]
    assert ran[4] == [(8, 1e-3, "reference"), (4, 1e-3, "default"), (4, 1e-4, "study"), (8, 1e-5, "study")]
    assert ran[10][:6] == [*ran[4], (4, 1e-5, "study"), (4, 1e-2, "study")]
    assert Counter(rank for rank, *_ in ran[10]) == {4: 5, 8: 5}
    assert {origin for *_, origin in ran[10][6:]} == {"sampler"}


def test_rungs_measure_a_value_of_the_factor_beside_itself() -> None:
    """Else a value that learns slowly would have a smaller budget than others."""

    def of(trial: Trial) -> Curve:
        scores = [trial.run["rank"] + epoch + trial.point["lr"] for epoch in range(1, 10)]
        return Curve(metrics=[{OBJECTIVE: score} for score in scores], seconds=[1.0] * 9)

    strategy = ran(plan_of(60, search=OF_A_FACTOR, method=Method(sampler="random")), of, workers=4)
    stopped = Counter(trial.run["rank"] for trial in strategy.ledger.state.searched if trial.stopped_at)
    assert set(stopped) == {4, 8, 16, 32}
    assert min(stopped.values()) >= 6, "the lowest rank would have none that goes on, beside the others"


def test_a_value_reads_its_own_keys_alone() -> None:
    """Full tuning has no rank, so it is one value beside those of LoRA; its sampler is not asked for a rank."""
    plan = plan_of(12, search=ADAPTERS)
    assert [level.name for level in plan.levels] == [
        "adapter full",
        "adapter freeze",
        *(f"adapter lora, rank {rank}" for rank in (4, 8, 16, 32)),
    ]
    strategy = ran(plan, workers=2)
    assert set(Counter(plan.level_of(trial.point).name for trial in strategy.ledger.state.searched).values()) == {2}
    assert set(strategy.views["adapter full"].level.drawn) == {"lr"}


def test_a_value_whose_points_are_all_tried_ends_and_the_others_go_on() -> None:
    search = dataclasses.replace(
        OF_A_FACTOR,
        nuisance={"alpha": Choice(8.0, "r", "2r")},
        reference={"rank": 8, "alpha": "r"},
        tasks={"sonnet": Case()},
    )
    strategy = ran(plan_of(40, search=search), workers=2)  # of rank 4 alpha 2r is alpha 8, of rank 8 alpha r
    assert Counter(trial.run["rank"] for trial in strategy.ledger.state.searched) == {4: 2, 8: 2, 16: 3, 32: 3}


def test_the_best_of_each_value_run_again_with_fresh_seeds() -> None:
    plan = plan_of(12, search=OF_A_FACTOR, replicates=2)
    strategy = ran(plan, workers=3)
    state = strategy.ledger.state
    names = finalists(state, plan)
    assert [state.trials[name].run["rank"] for name in names] == [4, 8, 16, 32]
    for name in names:
        same = [t for t in state.searched if t.run["rank"] == state.trials[name].run["rank"] and t.status == COMPLETED]
        best = max(t.score(OBJECTIVE, Direction.MAX) or 0 for t in same)
        assert state.trials[name].score(OBJECTIVE, Direction.MAX) == best
    repeats = [trial for trial in state.trials.values() if trial.of]
    assert sorted((trial.of, trial.run["seed"]) for trial in repeats) == [
        (name, 11711 + k) for name in sorted(names) for k in (1, 2)
    ]
    assert {trial.run["pretrain_seed"] for trial in repeats} == {11712, 11713}, "the first stage is trained anew too"


@pytest.mark.parametrize("confirm", [1, 3])
def test_the_best_and_the_reference_run_again_with_fresh_seeds_on_equal_terms(confirm: int) -> None:
    plan = plan_of(replicates=2, confirm=confirm)
    strategy = ran(plan, workers=3)
    names = finalists(strategy.ledger.state, plan)
    assert len(names) == confirm + 1
    assert names[-1] == "0000"
    scores = [strategy.ledger.state.trials[name].score(OBJECTIVE, Direction.MAX) for name in names[:-1]]
    assert scores == sorted(scores, reverse=True)
    repeats = [trial for trial in strategy.ledger.state.trials.values() if trial.of]
    assert sorted({trial.of for trial in repeats}) == sorted(names)
    assert sorted(trial.run["seed"] for trial in repeats) == [11712] * (confirm + 1) + [11713] * (confirm + 1)
    assert all(max(trial.reports) == plan.epochs for trial in repeats), "nothing stops a replicate"


def test_a_trial_is_not_stopped_at_its_own_last_epoch() -> None:
    plan = make_plan(
        SEARCH, "quick", comparing=BY_CHRF, domains={"epochs": IntUniform(1, 9)}, trials=30, grace=1, replicates=0
    )
    trials = ran(plan, workers=2).ledger.state.searched
    assert {trial.status for trial in trials if trial.epochs == 1} == {COMPLETED}
    assert any(trial.stopped_at == 1 for trial in trials if trial.epochs > 1)


CONDITIONAL = dataclasses.replace(
    ADAPTERS,
    factor=(),
    nuisance={**ADAPTERS.nuisance, "warmup_steps": IntUniform(0, 9), "dora": Choice(False, True)},
    reference={**ADAPTERS.reference, "warmup_steps": 0, "dora": False},
)
METHODS = [
    *(Method(sampler=name) for name in SAMPLERS), Method(scheduler="none"), POPULATION,
    Method(minimize=("parameters",), sampler="nsga2"), Method(minimize=("parameters",), sampler="tpe"),
    Method(plateau=2, limits=(limit("parameters<=800"),)),
]  # fmt: skip


@pytest.mark.parametrize("search", [SEARCH, OF_A_FACTOR, CONDITIONAL], ids=["whole", "factor", "conditional"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_worker_speed_and_kills_do_not_change_a_search(method: Method, search: Search, opened: Open) -> None:
    plan = plan_of(trials=18 if method.scheduler == "pbt" else 14, method=method, search=search)
    undisturbed = ran(plan, curves(0), workers=3)
    expected = what_it_did(undisturbed)
    assert len(undisturbed.ledger.state.searched) == plan.trials

    for workers in (1, 2, 8):
        other = ran(plan, curves(workers), workers=workers)
        assert what_it_did(other) == expected

    for kill in itertools.count(1):
        strategy = opened(plan)
        try:
            ReplayBackend(killed(curves(kill), after=7 * kill), workers=3).run(strategy)
        except KilledError:
            continue
        break
    assert kill > 3
    assert what_it_did(strategy) == expected


@pytest.mark.parametrize("search", [SEARCH, OF_A_FACTOR], ids=["whole", "factor"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_study_rebuilt_for_each_trial_proposes_the_same(method: Method, search: Search) -> None:
    trials = {"pbt": 18, "gp": 16}.get(method.scheduler if method.scheduler == "pbt" else method.sampler, 30)
    plan = plan_of(trials=trials, method=method, search=search, replicates=0)
    living, rebuilt = in_memory(plan), Rebuilt(plan, MemoryLedger())
    for strategy in (living, rebuilt):
        ReplayBackend(curves(), workers=3).run(strategy)
    assert len(living.ledger.state.searched) == plan.trials
    assert what_it_did(rebuilt) == what_it_did(living)
    for view in plan.views:
        mine, other = (studies(plan, one.ledger.state)[view.name] for one in (living, rebuilt))
        first, second = ([(t.params, t.state, t.values) for t in study.trials] for study in (mine, other))
        assert first == second


@pytest.mark.parametrize("sampler", sorted(name for name, one in SAMPLERS.items() if one.is_stateful))
def test_a_point_that_a_sampler_would_not_propose_again_is_the_ledgers_all_the_same(sampler: str) -> None:
    """As one that another version of Optuna proposed."""
    method, ledger = Method(sampler=sampler), MemoryLedger()
    ReplayBackend(curves(), workers=3).run(Strategy(plan_of(20, method=method, replicates=0), ledger))
    changed = ledger.state.searched[15]
    changed.point["lr"] = changed.run["lr"] = 0.002
    strategy = Strategy(plan_of(24, method=method, replicates=0), ledger)
    known = [trial.params for trial in strategy.views[""].study.trials if trial.state != optuna.trial.TrialState.FAIL]
    assert known == [trial.point for trial in ledger.state.searched]
    ReplayBackend(curves(), workers=3).run(strategy)
    assert len(ledger.state.searched) == 24


def test_a_search_that_is_given_more_trials_proposes_what_one_of_that_size_does(opened: Open) -> None:
    whole = ran(plan_of(24, replicates=0), workers=3)
    for trials in (12, 24):
        strategy = opened(plan_of(trials, replicates=0))
        ReplayBackend(curves(), workers=3).run(strategy)
    assert what_it_did(strategy) == what_it_did(whole)


class KilledError(Exception):
    pass


def killed(found: Curves, after: int) -> Curves:
    calls = itertools.count()

    def of(trial: Trial) -> Curve:
        if next(calls) > after:
            raise KilledError
        return found(trial)

    return of


def test_halving_spends_less_and_stops_no_known_point() -> None:
    whole, halved = in_memory(plan_of(60, method=Method(scheduler="none"))), in_memory(plan_of(60))
    spent = [ReplayBackend(curves(), workers=4).run(strategy).spent[-1] for strategy in (whole, halved)]
    assert spent[1] < 0.55 * spent[0]
    stopped = [trial for trial in halved.ledger.state.searched if trial.stopped_at]
    assert len(stopped) > 10
    assert {trial.stopped_at for trial in stopped} <= {1, 3}
    assert {trial.origin for trial in stopped} == {"sampler"}


def test_a_faster_trial_hears_of_its_end_later_and_counts_up_to_its_rung_alone() -> None:
    search = dataclasses.replace(SEARCH, tasks={"sonnet": Case()})
    strategy = in_memory(make_plan(search, "quick", comparing=BY_CHRF, settings={"epochs": "9"}, trials=3, grace=1))
    strategy.ledger.record({"event": "lag", "trials": 4})
    reference, slow, fast = (strategy.next() for _ in range(3))
    assert strategy.report(reference, report(reference, 1, 20.0)) == []
    assert strategy.report(fast, report(fast, 1, 10.0)) == []
    assert strategy.report(fast, report(fast, 2, 30.0)) == [], "its rung waits for the trial before it"
    assert strategy.report(slow, report(slow, 1, 25.0)) == [fast]
    strategy.end(fast, COMPLETED, None)
    assert (fast.status, fast.stopped_at, fast.score(OBJECTIVE, Direction.MAX)) == ("stopped", 1, 10.0)


def test_a_slow_trial_leaves_no_worker_idle_at_once() -> None:
    strategy = in_memory(plan_of(12))
    strategy.ledger.record({"event": "lag", "trials": 4})
    first = strategy.next()
    for _ in range(4):
        other = strategy.next()
        strategy.report(other, report(other, 9, 1.0))
        strategy.end(other, COMPLETED, None)
    assert strategy.next() == WAIT
    strategy.report(first, report(first, 9, 1.0))
    strategy.end(first, COMPLETED, None)
    assert isinstance(strategy.next(), Trial)


def report(trial: Trial, epoch: int, score: float, **metrics: float) -> dict[str, Any]:
    return {"event": "report", "trial": trial.name, "epoch": epoch, "metrics": {OBJECTIVE: score, **metrics}}


def test_optuna_is_told_the_best_epoch_not_the_last() -> None:
    strategy = in_memory(plan_of(1, replicates=0))
    trial = strategy.next()
    for epoch in range(1, 10):
        strategy.report(trial, report(trial, epoch, 10.0 - epoch))
    strategy.end(trial, COMPLETED, None)
    assert strategy.next() == DONE
    assert studies(strategy.plan, strategy.ledger.state)[""].trials[0].value == 9.0


def test_what_needed_too_much_memory_is_a_constraint_to_the_sampler() -> None:
    strategy = in_memory(plan_of(60, replicates=0))
    while isinstance(trial := strategy.next(), Trial):
        if trial.run["rank"] >= 16:
            strategy.end(trial, OUT_OF_MEMORY, "no memory")
        else:
            for epoch in range(1, 10):
                strategy.report(trial, report(trial, epoch, 10.0))
            strategy.end(trial, COMPLETED, None)
    study = studies(strategy.plan, strategy.ledger.state)[""]
    told = [(trial.params["rank"], trial.constraints["out_of_memory"]) for trial in study.trials]
    assert {constraint for rank, constraint in told[-30:] if rank >= 16} <= {1.0}
    ranks = [trial.run["rank"] for trial in strategy.ledger.state.searched if trial.origin == "sampler"]
    early, late = ranks[:20], ranks[-20:]
    assert sum(rank >= 16 for rank in late) < sum(rank >= 16 for rank in early)


def test_who_is_beyond_a_limit_wins_nothing() -> None:
    plan = plan_of(20, method=Method(limits=(limit("parameters<=800"),)))
    strategy = ran(plan, workers=2)
    assert strategy.ledger.state.trials[finalists(strategy.ledger.state, plan)[0]].run["rank"] <= 8
    highest = max(strategy.ledger.state.searched, key=lambda trial: trial.score(OBJECTIVE, Direction.MAX) or 0)
    assert highest.run["rank"] > 8


def test_a_plateau_ends_a_trial() -> None:
    strategy = in_memory(plan_of(1, method=Method(plateau=2)))
    trial = strategy.next()
    assert [strategy.report(trial, report(trial, epoch, -epoch)) for epoch in (1, 2, 3)] == [[], [], [trial]]
    strategy.end(trial, COMPLETED, None)
    assert (trial.status, trial.reason) == ("stopped", "no better for 2 epochs")


@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_a_population_takes_over_what_is_better(factor: float) -> None:
    settings = {} if factor == 1.25 else {"perturbation": factor}
    strategy = ran(plan_of(8 * 9, method=dataclasses.replace(POPULATION, settings=settings), replicates=0), workers=4)
    trials = strategy.ledger.state.searched
    assert [trial.until for trial in trials[::8]] == list(range(1, 10))
    heirs = [trial for trial in trials if trial.parent and int(trial.parent) % 8 != int(trial.name) % 8]
    assert len(heirs) >= 8
    for heir in heirs:
        parent = strategy.ledger.state.trials[str(heir.parent)]
        assert parent.until == (heir.until or 0) - 1
        assert heir.point["rank"] == parent.point["rank"], "what the weights have the shape of"
        assert heir.point["lr"] in (parent.point["lr"] * (1 / factor), parent.point["lr"] * factor, 1e-5, 1e-2, 3e-2)


@pytest.mark.parametrize("first", ["poems", None])
def test_a_population_trains_on_from_the_first_stage_that_its_weights_lie_on(first: str | None) -> None:
    search = dataclasses.replace(
        SEARCH,
        fixed={**SEARCH.fixed, "pretrain": first},
        nuisance={**SEARCH.nuisance, "dropout": Choice(0.0, 0.1, 0.2)},
        reference={**SEARCH.reference, "dropout": 0.1},
    )
    strategy = ran(plan_of(8 * 9, method=POPULATION, replicates=0, search=search), workers=4)
    trials = strategy.ledger.state.trials
    pairs = [(trial, trials[str(trial.parent)]) for trial in trials.values() if trial.parent]
    assert any(heir.point["lr"] != parent.point["lr"] for heir, parent in pairs)
    assert all(heir.point["dropout"] == parent.point["dropout"] for heir, parent in pairs) == (first is not None)


def test_a_population_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be >= 18: population-based .* has 9 generations of at least 2 trials"):
        in_memory(plan_of(10, method=Method(scheduler="pbt")))
    search = dataclasses.replace(SEARCH, nuisance={}, reference={"rank": 8}, tasks={"sonnet": Case()})
    with pytest.raises(ConfigError, match=r"None of the searched keys \(rank\) can change while a run trains"):
        in_memory(make_plan(search, "quick", comparing=BY_CHRF, trials=50, method=Method(scheduler="pbt")))


def test_a_diverged_trial_is_poor_not_unknown() -> None:
    strategy = in_memory(plan_of(2, replicates=0))
    trial = strategy.next()
    strategy.end(trial, DIVERGED, "The training loss is nan")
    assert (trial.status, trial.reason) == (DIVERGED, "The training loss is nan")
    while isinstance(other := strategy.next(), Trial):
        strategy.end(other, DIVERGED, "The training loss is nan")
    study = studies(strategy.plan, strategy.ledger.state)[""]
    assert [one.state for one in study.trials] == [optuna.trial.TrialState.PRUNED] * 2
