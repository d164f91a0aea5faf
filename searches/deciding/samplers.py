"""Samplers (search algorithms), built from Optuna's. To add one: a function of type `Make` and a line in SAMPLERS.

A sampler's keys are set with `--set`, like those of a run; the function reads them as `plan.method.part(KEYS)`.

Each trial has a new sampler, seeded by the trial's number, so proposals depend on the plan and on earlier results, but not on
how often the search was interrupted.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2core.component import Component, Keys, Table, first_clause, key
from gpt2core.errors import ConfigError
from searches.domains import Choice, Domain, Space
from searches.plan import Level, Plan
from searches.question import Point

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

LARGEST = 100_000  # points of a grid


class StartupKeys(Keys):
    """Keys of samplers that fit a model of the space."""

    startup_trials: int = key(8, "random points before the sampler fits a model of the space", ge=1)


class GridKeys(Keys):
    """Keys of the grid."""

    grid_values: int = key(5, "grid values of a number between two bounds", ge=2)


#: (plan, seed of the trial) -> its sampler
Make = Callable[[Plan, int], "BaseSampler"]


def tpe(plan: Plan, seed: int) -> "BaseSampler":
    """Tree-structured Parzen estimator (Bergstra et al. 2011); running trials count as poor (constant liar)."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constant_liar=True, n_startup_trials=_startup(plan))


def gp(plan: Plan, seed: int) -> "BaseSampler":
    """Gaussian process with expected improvement."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=_startup(plan), warn_independent_sampling=False)


def random(plan: Plan, seed: int) -> "BaseSampler":
    """Uniform draws."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def grid(plan: Plan, seed: int) -> "BaseSampler":
    """All combinations of values, shuffled; the view enqueues these `points`."""
    return random(plan, seed)


def cmaes(plan: Plan, seed: int) -> "BaseSampler":
    """CMA-ES (Hansen & Ostermeier 2001) for numbers; choices are drawn at random."""
    from optuna.samplers import CmaEsSampler, RandomSampler

    with experimental():
        independent = RandomSampler(seed)
        return CmaEsSampler(
            seed=seed, independent_sampler=independent, warn_independent_sampling=False, consider_pruned_trials=True
        )


def qmc(plan: Plan, seed: int) -> "BaseSampler":
    """Scrambled Sobol sequence: more even than random draws. All points of a sequence need the same seed."""
    from optuna.samplers import QMCSampler, RandomSampler

    with experimental():
        return QMCSampler(
            seed=plan.seed, scramble=True, independent_sampler=RandomSampler(seed), warn_independent_sampling=False
        )


def nsga2(plan: Plan, seed: int) -> "BaseSampler":
    """NSGA-II (Deb et al. 2002), for several objectives."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=max(4, min(50, plan.trials // 4)))


def _startup(plan: Plan) -> int:
    return plan.method.part(StartupKeys).startup_trials


@dataclass(frozen=True, kw_only=True)
class Sampler(Component):
    """An entry of SAMPLERS. A trial beyond a limit cannot win, even if the sampler does not learn from limits.

    A sampler that `is_stateful` keeps notes in the study; a rebuilt study gets them by proposing its trials again.
    """

    make: Make
    learns_limits: bool = True
    is_stateful: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(self.make)


SAMPLERS: Table[Sampler] = Table(
    "sampler",
    Sampler,
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
    """Copy a sampler's cached search space, which depends on the trials alone, from the sampler before it.

    Without it the sampler would scan all trials again; at 10,000 trials that takes most of a proposal's time.
    """
    for name in ("_search_space", "_intersection_search_space"):  # attributes of Optuna's samplers
        if type(sampler) is type(former) and hasattr(former, name):
            setattr(sampler, name, getattr(former, name))


@contextmanager
def experimental() -> Iterator[None]:
    """Silence Optuna's warnings about experimental features; its version is pinned."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def suggest(trial: "optuna.Trial", key: str, domain: Domain) -> Any:
    """Return the value of a key that Optuna draws for a trial."""
    if isinstance(domain, Choice):
        return trial.suggest_categorical(key, domain.values)
    if domain.is_whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.is_log)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.is_log)


def values(plan: Plan, domain: Domain) -> Sequence[Any]:
    """Return a domain's values: of the grid, both bounds included, or all values of a finite domain."""
    if isinstance(domain, Choice):
        return domain.values
    if plan.method.sampler != "grid":
        return range(int(domain.low), int(domain.high) + 1)
    count = plan.method.part(GridKeys).grid_values
    return list(dict.fromkeys(domain.at(step / (count - 1)) for step in range(count)))


def size(plan: Plan, view: Level) -> int | None:
    """Return the number of points of a grid or of a finite view, else None; raise ConfigError for too large a grid."""
    grid = plan.method.sampler == "grid"
    domains = [plan.space[key] for key in view.drawn]
    if not grid and not all(isinstance(domain, Choice) or domain.is_whole for domain in domains):
        return None
    count = sum(math.prod(len(values(plan, domain)) for domain in free.values()) for _, free in _branches(plan, view))
    if count > LARGEST and grid:
        raise ConfigError(f"The grid has {count:,} points, but must have at most {LARGEST:,}: fix some keys with --set")
    return count if count <= LARGEST else None


def points(plan: Plan, view: Level) -> list[dict[str, Any]] | None:
    """Return all points of a grid or finite view, shuffled, else None. Raises ConfigError.

    Optuna's GridSampler cannot be used: it needs Optuna's own loop.
    """
    if size(plan, view) is None:
        return None
    shuffled: list[dict[str, Any]] = []
    for conditions, free in _branches(plan, view):
        grids = [values(plan, domain) for domain in free.values()]
        shuffled += [{**conditions, **dict(zip(free, point, strict=True))} for point in itertools.product(*grids)]
    np.random.default_rng(plan.seed).shuffle(shuffled)
    return shuffled


def _branches(plan: Plan, view: Level) -> Iterator[tuple[Point, Space]]:
    """Yield the combinations of a view's conditions, each with the domains of the other keys that are active under it."""
    for branch in plan.conditions.branches(view.point):
        active = plan.conditions.active(branch)
        free = {key: plan.space[key] for key in view.drawn if key in active and key not in branch}
        yield {key: value for key, value in branch.items() if key in view.drawn}, free
