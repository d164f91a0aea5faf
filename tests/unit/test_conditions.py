"""Conditional keys: a point has the searched keys that decide the result of its run, and no others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest

from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from searches.deciding.method import Method
from searches.deciding.optuna_study import View
from searches.deciding.samplers import points, size
from searches.domains import Choice, Domain, IntUniform, LogInt, LogUniform, Uniform
from searches.learning_rate import SEARCH as LEARNING_RATE
from searches.lora_rank import SEARCH as LORA_RANK
from searches.plan import Plan, make_plan
from searches.planning.measure import draw

#: Conditions after the keys that depend on them, a condition under a condition, and keys that depend on two of them.
SPACE: dict[str, Domain] = {
    "rank": IntUniform(2, 16),
    "lora_init": Choice("default", "pissa"),
    "adapter": Choice("full", "lora", "frozen"),
    "pretrain_lr": LogUniform(1e-5, 1e-3),
    "pretrain": Choice(None, "poems"),
    "num_beams": LogInt(2, 8),
    "top_k": Choice(5, 50),
    "decoder": Choice("greedy", "top-k", "beam"),
    "temperature": Choice(0.0, 0.7),
    "attention_window": IntUniform(1, 4),
    "attention": Choice("dense", "dense,logsparse"),
}


def plan_of(**changes: Any) -> Plan:
    return make_plan(LEARNING_RATE, "quick", domains=SPACE, **changes)


def drawn(plan: Plan, count: int) -> Iterator[tuple[optuna.Trial, dict[str, Any]]]:
    view = View(plan, plan.views[0])
    for number in range(count):
        trial = view._ask(number, 0)
        yield trial, view._draw(trial)


def decides(plan: Plan, point: dict[str, Any], key: str, random: np.random.Generator) -> bool:
    """The slow way: try values of the key, and see whether any makes another run."""
    domain = plan.space[key]
    values = domain.values if isinstance(domain, Choice) else [domain.low, domain.high, draw(domain, random)]
    return len({str(identity(plan.config({**point, key: value}))) for value in values}) > 1


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_point_has_exactly_the_keys_that_decide_its_run(sampler: str) -> None:
    plan, random = plan_of(method=Method(sampler=sampler)), np.random.default_rng(0)
    seen = set()
    for trial, point in drawn(plan, 60):
        deciding = {key for key in plan.space if decides(plan, point, key, random)}
        cold = {"decoder"} if point.get("temperature") == 0 else set()  # then each decoder is greedy
        assert point.keys() - cold == deciding - cold, point
        assert trial.params == point, "Optuna is told the same keys"
        assert all(value in plan.space[key] for key, value in point.items())
        seen |= {tuple(point)}
    assert len(seen) > 12


def test_conditions_are_found_and_drawn_before_what_depends_on_them() -> None:
    conditions = plan_of().conditions
    assert set(conditions.keys) == {"adapter", "pretrain", "decoder", "temperature", "attention"}
    assert conditions.order.index("decoder") < conditions.order.index("temperature"), "greedy has no temperature"
    assert set(conditions.order[:5]) == set(conditions.keys)
    assert conditions.order[5:] == [key for key in plan_of().space if key not in conditions.keys]
    assert not make_plan(LORA_RANK, "quick").conditions.keys


@pytest.mark.parametrize("method", [Method(sampler="random"), Method(sampler="grid")], ids=str)
def test_a_finite_space_has_each_run_once(method: Method) -> None:
    space: dict[str, Domain] = {
        "adapter": Choice("full", "lora"),
        "rank": IntUniform(3, 6),
        "dropout": Choice(0.0, 0.1),
    }
    plan = make_plan(LEARNING_RATE, "quick", domains=space, settings={"lr": "1e-3"}, method=method)
    all_points = points(plan, plan.views[0]) or []
    assert len(all_points) == size(plan, plan.views[0]) == 2 + 4 * 2
    assert len({str(identity(plan.config(point))) for point in all_points}) == len(all_points)


def test_whole_numbers_are_told_to_optuna_as_such() -> None:
    trial, _ = next(
        drawn(make_plan(LORA_RANK, "quick", domains={"rank": LogInt(2, 64), "epochs": IntUniform(1, 4)}), 1)
    )
    assert trial.distributions["rank"] == optuna.distributions.IntDistribution(2, 64, log=True)
    assert trial.distributions["epochs"] == optuna.distributions.IntDistribution(1, 4)
    assert all(isinstance(trial.params[key], int) for key in ("rank", "epochs"))


@pytest.mark.parametrize(
    "domain", [Uniform(-1.0, 3.0), LogUniform(1e-5, 1e-2), IntUniform(2, 9), LogInt(2, 64)], ids=str
)
def test_shares_and_numbers_of_a_domain_are_inverse(domain: Any) -> None:
    for number in [domain.low, domain.high, *(draw(domain, np.random.default_rng(seed)) for seed in range(20))]:
        assert number in domain
        assert domain.nearest(number) == number
        assert domain.at(domain.share(number)) == pytest.approx(number)
    assert (domain.nearest(-5), domain.nearest(1e9), domain.nearest("r")) == (domain.low, domain.high, domain.low)


def test_a_nuisance_key_may_not_decide_whether_runs_have_the_factor() -> None:
    with pytest.raises(
        ConfigError, match="compares the values of `rank`, but `adapter`, which it searches too, decides"
    ):
        make_plan(LORA_RANK, "quick", domains={"adapter": Choice("full", "lora")})
    plan = make_plan(LORA_RANK, "quick", domains={"decoder": Choice("greedy", "beam"), "num_beams": IntUniform(2, 4)})
    assert [level.name for level in plan.levels] == ["rank 4", "rank 8", "rank 16", "rank 32"]
    assert all(level.drawn[0] == "decoder" and level.drawn[-1] == "num_beams" for level in plan.levels)
