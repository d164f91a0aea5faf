"""Who proposes the next point. To add a sampler: a function like `Make`, a line in SAMPLERS.

Its keys are set by `--set`, as those of a run are; the function has them as `plan.method.part(KEYS)`.

A sampler is made anew for each trial, seeded by the trial's number: what it proposes follows from the plan and from what it
was told, not from how often the search was interrupted.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2core.component import Component, Keys, Table, key
from gpt2core.errors import ConfigError
from searches.question import Choice, Domain, LogUniform, Plan

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

LARGEST = 100_000  # points of a grid


class StartupKeys(Keys):
    """Keys of samplers that make a model of the space."""

    startup_trials: int = key(8, "random points before the sampler makes a model of the space", ge=1)


class GridKeys(Keys):
    """Keys of the grid."""

    grid_values: int = key(5, "values of a number between two bounds on a grid", ge=2)


#: Plan, seed of this trial -> its sampler.
Make = Callable[[Plan, int], "BaseSampler"]


def tpe(plan: Plan, seed: int) -> "BaseSampler":
    """Tree-structured Parzen estimator (Bergstra et al. 2011), all keys together; running trials count as poor."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constant_liar=True, n_startup_trials=_startup(plan))


def gp(plan: Plan, seed: int) -> "BaseSampler":
    """Gaussian process with expected improvement, as Optuna has it."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=_startup(plan), warn_independent_sampling=False)


def random(plan: Plan, seed: int) -> "BaseSampler":
    """Uniform draws."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def grid(plan: Plan, seed: int) -> "BaseSampler":
    """All combinations in an order of their own; a number between bounds has `grid_values`. The strategy hands out `points`."""
    return random(plan, seed)


def cmaes(plan: Plan, seed: int) -> "BaseSampler":
    """Covariance matrix adaptation (Hansen & Ostermeier 2001) of the numbers; choices are drawn at random."""
    from optuna.samplers import CmaEsSampler, RandomSampler

    with experimental():
        return CmaEsSampler(
            seed=seed,
            independent_sampler=RandomSampler(seed),
            warn_independent_sampling=False,
            consider_pruned_trials=True,
        )


def qmc(plan: Plan, seed: int) -> "BaseSampler":
    """A scrambled Sobol sequence: more even than random. It needs the same seed for all of its points."""
    from optuna.samplers import QMCSampler, RandomSampler

    with experimental():
        return QMCSampler(
            seed=plan.seed, scramble=True, independent_sampler=RandomSampler(seed), warn_independent_sampling=False
        )


def nsga2(plan: Plan, seed: int) -> "BaseSampler":
    """Non-dominated sorting genetic algorithm II (Deb et al. 2002): for several objectives."""
    from optuna.samplers import NSGAIISampler

    size = max(4, min(50, plan.trials // 4))
    return NSGAIISampler(seed=seed, population_size=size)


def _startup(plan: Plan) -> int:
    return plan.method.part(StartupKeys).startup_trials


@dataclass(frozen=True, kw_only=True)
class Sampler(Component):
    """An entry of SAMPLERS. What is beyond a limit wins nothing, also where the sampler does not learn from limits.

    One `is_stateful` keeps notes in the study, which a rebuilt study has once it has proposed its trials again.
    """

    make: Make
    learns_limits: bool = True
    is_stateful: bool = False


SAMPLERS: Table[Sampler] = Table(
    "sampler",
    {
        "tpe": Sampler(make=tpe, keys=StartupKeys),
        "gp": Sampler(make=gp, keys=StartupKeys),
        "random": Sampler(make=random),
        "grid": Sampler(make=grid, keys=GridKeys),
        "cma-es": Sampler(make=cmaes, learns_limits=False, is_stateful=True),
        "qmc": Sampler(make=qmc, is_stateful=True),
        "nsga2": Sampler(make=nsga2, is_stateful=True),
    },
)


def inherit_space(sampler: "BaseSampler", former: "BaseSampler") -> None:
    """Give a sampler what the one before it knows of the keys that all trials have, which follows from the trials alone.

    Else it would look through all of them again, which of 10,000 trials takes most of a proposal's time.
    """
    for name in ("_search_space", "_intersection_search_space"):  # by which Optuna's samplers call it
        if type(sampler) is type(former) and hasattr(former, name):
            setattr(sampler, name, getattr(former, name))


@contextmanager
def experimental() -> Iterator[None]:
    """Use what Optuna calls experimental; its version is pinned."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def distribution(domain: Domain) -> "BaseDistribution":
    """A domain as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def values(plan: Plan, domain: Domain) -> list[Any]:
    """The values of a domain on a grid, both ends among them."""
    if isinstance(domain, Choice):
        return list(domain.values)
    count = plan.method.part(GridKeys).grid_values
    steps = [step / (count - 1) for step in range(count)]
    if isinstance(domain, LogUniform):
        inner = [domain.low * (domain.high / domain.low) ** step for step in steps[1:-1]]
    else:
        inner = [domain.low + (domain.high - domain.low) * step for step in steps[1:-1]]
    return [domain.low, *inner, domain.high]


def size(plan: Plan, space: Mapping[str, Domain]) -> int | None:
    """How many points a grid has at most, or a space that has finitely many; None for any other. Raises ConfigError."""
    domains, grid = space.values(), plan.method.sampler == "grid"
    if not grid and not all(isinstance(domain, Choice) for domain in domains):
        return None
    found = math.prod(len(values(plan, domain)) for domain in domains)
    if found > LARGEST and grid:
        raise ConfigError(f"The grid has {found:,} points, but at most {LARGEST:,} can be: fix some keys with --set")
    return found if found <= LARGEST else None


def points(plan: Plan, space: Mapping[str, Domain]) -> list[dict[str, Any]] | None:
    """All points of such a space, shuffled; None where there are not finitely many. Raises ConfigError.

    Optuna's own GridSampler wants a loop of Optuna's own.
    """
    if size(plan, space) is None:
        return None
    grids = [values(plan, domain) for domain in space.values()]
    found = [dict(zip(space, point, strict=True)) for point in itertools.product(*grids)]
    np.random.default_rng(plan.seed).shuffle(found)
    return found
