"""How a search states its question: what is compared, what is tuned along so that it is fair, what is fixed.

The words are those of google-research/tuning_playbook: scientific, nuisance and fixed hyperparameters.
"""

import hashlib
import importlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2core.component import lookup, nearest
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import ConfigError, visible
from searches.deciding.comparing import AS_PLANNED, Comparing
from searches.deciding.method import DEFAULT, Method
from searches.formatting import setting_text

if TYPE_CHECKING:  # these take seconds to import: not for --help
    from gpt2core.metrics.direction import Direction
    from gpt2core.metrics.metric import Metric
    from searches.deciding.decision import Design

Point = Mapping[str, Any]  # a value for each searched key
REDUCTION = 3  # of successive halving: one in so many passes a rung
MOST_LEVELS = (
    8  # values of a factor that are compared with each other; of more, the best trials are compared with the reference
)


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class LogUniform:
    """A number between `low` and `high`, spread evenly over its logarithm."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, log-uniform"


@dataclass(frozen=True)
class Uniform:
    """A number between `low` and `high`."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


Domain = Choice | LogUniform | Uniform
Space = Mapping[str, Domain]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How large a search is: its model, its trials, the fresh seeds on which its best ones are compared, and values of the run.

    `confirm` says how many of the best trials are compared with the reference; None: the best of each value of the factor, or
    the best trial where there is no factor. `until_decided`: `replicates` are the most seeds, and fewer are run where they
    decide. `folds` are those of the training texts that judge where the dev split is too small to be divided. `grace` is the
    first epoch at which a trial may be stopped, where it is not `Plan.grace`'s. `ahead` is how many trials before a new one it
    does not wait for, so it bounds the trials that run at once.
    """

    model: str
    trials: int
    replicates: int
    confirm: int | None = None
    until_decided: bool = False
    folds: int = 3
    grace: int | None = None
    ahead: int = 8
    run: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, Any] = field(
        default_factory=dict
    )  # where pairs are generated: contexts, critic, GenerationConfig


#: Whatever a search is, `--smoke` runs the whole way in under a minute.
SMOKE = Profile(
    model="gpt2-nano",
    trials=3,
    replicates=1,
    folds=2,
    run={
        "epochs": 2,
        "decode_seeds": 1,
        "train_examples": 16,
        "dev_examples": 100,
        "pretrain_examples": 16,
        "pretrain_epochs": 1,
        "max_new_tokens": 24,
        "tau": 0.2,  # of the few pairs of a smoke test, hardly one is a paraphrase
        "min_length_ratio": 0.2,
        "max_length_ratio": 5.0,
        "pairs_temperature": 0.7,
    },
    candidates={"contexts": 12, "candidates": 6, "critic": "overlap"},
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task that a question can be asked of: values fixed for it, and the study's points, tried right after the reference.

    What a point does not name is as in the reference.
    """

    fixed: Point = field(default_factory=dict)
    study: Sequence[Point] = ()


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question, judged by the objective of its task. `reference` is trial 0; the points of the published study follow;
    then the sampler proposes.

    `factor` names the scientific keys whose values the question is about. Where they have up to MOST_LEVELS values together, each
    value gets the same number of trials and a sampler of its own, and the best of each are compared.
    """

    name: str
    question: str
    tasks: Mapping[str, Case]  # the first is the default
    scientific: Space
    nuisance: Space
    fixed: Point
    reference: Point
    profiles: Mapping[str, Profile]
    factor: Sequence[str] = ()
    learns_from_pairs: bool = False  # then pairs are generated before the first trial, as `Profile.candidates` says
    costs: Sequence[str] = ()  # metrics to be small: beside the objective they make the Pareto front
    constraints: Sequence[str] = ()  # what the winner must keep, where no --constraint says otherwise


@dataclass(frozen=True, kw_only=True)
class Level:
    """One value of the factor. `point` has all keys of the factor, `value` those that this value reads: full tuning has no rank.

    `active` are the other searched keys that it reads. A search without a factor has one level, whose value is empty.
    """

    point: Point
    value: Point
    active: tuple[str, ...]

    @property
    def name(self) -> str:
        """The value in words, such as `rank 8`."""
        return ", ".join(setting_text(key, value) for key, value in self.value.items())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search with all flags applied: what will run. Validated when made, before anything costs time."""

    search: Search
    profile: Profile
    fixed: Point
    seed: int
    method: Method = DEFAULT
    comparing: Comparing = AS_PLANNED

    def __post_init__(self) -> None:
        for point in self.first_points():
            self.config(point)
        if self.profile.trials < 1:
            raise ConfigError(f"The value of `--trials` is {self.profile.trials}, but must be >= 1")
        if self.comparing.each and len(self.levels) < 2:
            raise ConfigError(
                f"The value of `--confirm` is each, but this search has no factor of 2 to {MOST_LEVELS} values; give a number"
            )

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.fixed["task"])

    @cached_property
    def metrics(self) -> "Mapping[str, Metric]":
        """All metrics of the task."""
        from gpt2core.tasks import TASKS  # PyTorch takes a second to import: not for --help

        metrics: Mapping[str, Metric] = TASKS[self.task].metrics
        return metrics

    @cached_property
    def metric(self) -> "Metric":
        """The metric that decides; raise ConfigError for a name that the task has not."""
        from gpt2core.tasks import TASKS
        from gpt2core.tasks.base import objective_of

        return objective_of(TASKS[self.task], self.config(self.search.reference))

    @property
    def objective(self) -> str:
        """The name of the metric that decides."""
        return self.metric.name

    @property
    def direction(self) -> "Direction":
        """Whether the objective is to be large or small."""
        return self.metric.direction

    @property
    def margin(self) -> float:
        """A difference of the objective that does not matter."""
        return self.metric.margin if self.comparing.margin is None else self.comparing.margin

    @property
    def space(self) -> dict[str, Domain]:
        """The keys that are searched: those of the question that no flag has fixed."""
        both = {**self.search.scientific, **self.search.nuisance}
        return {key: domain for key, domain in both.items() if key not in self.fixed}

    @cached_property
    def levels(self) -> list[Level]:
        """The values of the factor, in its own order; a single one where there is no factor of 2 to MOST_LEVELS values."""
        space, factor = self.space, [key for key in self.search.factor if key in self.space]
        alone = [self._whole_space]
        domains = [domain.values for key in factor if isinstance(domain := space[key], Choice)]
        if not factor or len(domains) < len(factor):
            return alone
        found: dict[str, Level] = {}
        for values in itertools.product(*domains):
            point = dict(zip(factor, values, strict=True))
            read = self._identity({**self.search.reference, **point})
            value = {key: point[key] for key in factor if key in read or point[key] is None}
            active = tuple(key for key in space if key in read and key not in factor)
            found.setdefault(json.dumps(value), Level(point=point, value=value, active=active))
        return list(found.values()) if 2 <= len(found) <= MOST_LEVELS else alone

    @property
    def _whole_space(self) -> Level:
        return Level(point={}, value={}, active=tuple(self.space))

    def level_of(self, point: Point) -> Level:
        """The value of the factor that a point has."""
        if not self.has_factor:
            return self.levels[0]
        return next(level for level in self.levels if all(point[key] == value for key, value in level.value.items()))

    @property
    def has_factor(self) -> bool:
        """Whether the question is about a factor with values to compare."""
        return len(self.levels) > 1

    @property
    def factor(self) -> list[str]:
        """The keys of the factor; none where the question is not about one."""
        return list(self.levels[0].point)

    @property
    def factor_name(self) -> str:
        """The factor in words, such as `rank`."""
        return " and ".join(key.replace("_", " ") for key in self.factor)

    @property
    def balanced(self) -> bool:
        """Whether each value of the factor gets the same number of trials: where there are enough, and no population."""
        return self.has_factor and self.method.scheduler != "pbt" and self.profile.trials >= len(self.levels)

    @cached_property
    def views(self) -> list[Level]:
        """What is searched apart, each part with as many trials, a sampler and rungs of its own: the values of the factor where
        they are balanced, else the whole space."""
        return self.levels if self.balanced else [self._whole_space]

    def view_of(self, point: Point) -> Level:
        """The one of them that a point is in."""
        return self.level_of(point) if self.balanced else self.views[0]

    @property
    def per_view(self) -> int:
        """How many trials each of them gets."""
        return math.ceil(self.profile.trials / len(self.views))

    @property
    def trials(self) -> int:
        """How many trials there are: as asked for, or so many more that each of the views has the same number."""
        return self.per_view * len(self.views)

    @property
    def compares_each(self) -> bool:
        """Whether the best of each value of the factor are compared with each other, not the best trials with the reference."""
        return self.has_factor and self.profile.confirm is None

    @property
    def compared(self) -> int:
        """How many settings are compared."""
        return min(len(self.levels), self.trials) if self.compares_each else 1 + (self.profile.confirm or 1)

    @cached_property
    def design(self) -> "Design | None":
        """On how many fresh seeds they are, and when it is looked at; None where nothing is to be compared."""
        from searches.deciding.decision import Design  # SciPy takes half a second to import

        most = self.profile.replicates
        if not most:
            return None
        return Design.until_decided(most) if self.profile.until_decided else Design.fixed(most)

    @property
    def replicates(self) -> int:
        """Runs of the final comparison, at most."""
        return self.compared * self.profile.replicates

    @property
    def epochs(self) -> int:
        """Epochs of a trial that nothing stops."""
        return self.config(self.search.reference).epochs

    @property
    def grace(self) -> int:
        """The first epoch at which a trial may be stopped: a third of them.

        Earlier, those that learn fast and end worse stop those that learn slowly: see `tests/benchmarks/replay.py`.
        """
        return min(self.epochs, self.profile.grace or max(1, self.epochs // REDUCTION))

    def first_points(self) -> list[dict[str, Any]]:
        """The reference, its settings with each other value of the factor, and the study's points, without repeats.

        They hold the searched keys alone.
        """
        return list(self._first_points)

    @cached_property
    def _first_points(self) -> list[dict[str, Any]]:
        others = [level.point for level in self.levels] if self.balanced else []
        points: list[dict[str, Any]] = []
        runs: list[dict[str, Any]] = []
        for point in [self.search.reference, *others, *self.search.tasks[self.task].study]:
            searched = {key: {**self.search.reference, **point}[key] for key in self.space}
            run = self._identity(searched)
            if run not in runs:
                points.append(searched)
                runs.append(run)
        return points

    def known_points(self) -> list[dict[str, Any]]:
        """The first points that there are trials for: of each view no more than it gets."""
        kept: list[dict[str, Any]] = []
        trials: Counter[str] = Counter()
        for point in self.first_points():
            name = self.view_of(point).name
            trials[name] += 1
            kept += [point] if trials[name] <= self.per_view else []
        return kept

    def origin(self, number: int, point: Point) -> str:
        """Where the point of trial `number` is from: the reference, the study, the reference's settings with another
        value of the factor (`default`), or the sampler."""
        if number == 0:
            return "reference"
        if point not in self.first_points():
            return "sampler"
        study = [{**self.search.reference, **one} for one in self.search.tasks[self.task].study]
        return "study" if any(all(one[key] == value for key, value in point.items()) for one in study) else "default"

    def config(self, point: Point, **changes: Any) -> RunConfig:
        """The validated configuration of a point of the space; raise ConfigError."""
        import gpt2core.identity  # noqa: F401  # the tables, whose entries declare keys: not for --help

        searched = {key: value for key, value in point.items() if key in self.space}
        return RunConfig.of({"seed": self.seed, **self.fixed, **searched, **changes})

    def _identity(self, point: Point) -> dict[str, Any]:
        from gpt2core.identity import identity

        return identity(self.config(point))

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the trials; how many there are may grow, so it is not part of it."""
        values = {
            "space": {key: repr(domain) for key, domain in self.space.items()},
            "first": self.first_points(),
            # All keys, for a point may read one that the reference does not. Where files lie decides nothing: what is in them
            # is noted with the data.
            "run": self.config(self.search.reference).model_dump(
                exclude={*keys_that_decide("place"), *keys_that_decide("nothing")}
            ),
            "candidates": dict(self.profile.candidates) if self.search.learns_from_pairs else {},
            "grace": self.grace,
            "method": self.method.to_dict(),
            "factor": [level.name for level in self.levels],
            "ahead": self.profile.ahead,
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def scripts() -> list[str]:
    """The names of the search scripts in this folder."""
    return [
        path.stem for path in Path(__file__).parent.glob("*.py") if "\nSEARCH = " in path.read_text(encoding="utf-8")
    ]


def search_of(script: str) -> Search:
    """The search of a script in this folder, by the script's name; raise ConfigError where there is none."""
    try:
        if not script.isidentifier():  # it may be from a file
            raise ImportError
        search: Search = importlib.import_module(f"searches.{script}").SEARCH
    except (ImportError, AttributeError):
        raise ConfigError(f"There is no search script `{visible(script, 60)}`: {nearest(script, scripts())}") from None
    return search


def make_plan(
    search: Search,
    profile: str,
    *,
    smoke: bool = False,
    settings: Point | None = None,
    seed: int = 11711,
    method: Method = DEFAULT,
    comparing: Comparing = AS_PLANNED,
    **changes: Any,
) -> Plan:
    """Apply the flags to a search. `settings` are the values of `--set`; one of a searched key fixes it."""
    settings = dict(settings or {})
    task = settings.pop("task", next(iter(search.tasks)))
    if task not in search.tasks:
        raise ConfigError(f"The task `{task}` is none of this search: {nearest(str(task), search.tasks)}")
    chosen = SMOKE if smoke else lookup(search.profiles, profile, "profile")
    chosen = Profile(**{**chosen.__dict__, **{k: v for k, v in changes.items() if v is not None}})
    if comparing.each:
        chosen = replace(chosen, confirm=None)
    asked = {"task": task, **search.tasks[task].fixed, **chosen.run, **search.fixed, "model": chosen.model}
    fixed = {**asked, **comparing.of_trials(), **settings}
    for key in settings:
        if key in ("model", "seed", "objective", "folds"):
            raise ConfigError(f"The key `{key}` cannot be `--set`: use --{key}")
        if key in ("fold", "judged", "scored_on", "dev_part"):
            raise ConfigError(f"The key `{key}` cannot be `--set`: the search sets it; see --folds and --confirm-on")
    return Plan(search=search, profile=chosen, fixed=fixed, seed=seed, method=method, comparing=comparing)
