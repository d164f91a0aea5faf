"""How a search states its question: what is compared, what is tuned along so that it is fair, what is fixed.

The words are those of google-research/tuning_playbook: scientific, nuisance and fixed hyperparameters.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError
from gpt2core.lookup import lookup, nearest
from searches.deciding.method import DEFAULT, Method

Point = Mapping[str, Any]  # a value for each searched key
REDUCTION = 3  # of successive halving: one in so many passes a rung


class Choice:
    """One of some values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

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
    """How large a search is: its model, how many trials, how many of the best are confirmed on how many fresh seeds, values
    of the run, and the first epoch at which a trial may be stopped, where it is not `Plan.grace`'s."""

    model: str
    trials: int
    replicates: int
    confirm: int = 1
    grace: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, Any] = field(
        default_factory=dict
    )  # where pairs are generated: contexts, critic, GenerationConfig


#: Whatever a search is, `--smoke` runs the whole way in under a minute.
SMOKE = Profile(
    model="gpt2-nano",
    trials=3,
    replicates=1,
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
    """A task that a question can be asked of: values fixed for it, and the study's points, tried right after the baseline.

    What a point does not name is as in the baseline.
    """

    fixed: Point = field(default_factory=dict)
    study: Sequence[Point] = ()


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question, judged by the objective of its task. `baseline` is trial 0; the points of the published study follow;
    then the sampler proposes."""

    name: str
    question: str
    tasks: Mapping[str, Case]  # the first is the default
    scientific: Space
    nuisance: Space
    fixed: Point
    baseline: Point
    profiles: Mapping[str, Profile]
    learns_from_pairs: bool = False  # then pairs are generated before the first trial, as `Profile.candidates` says
    costs: Sequence[str] = ()  # metrics to be small: beside the objective they make the Pareto front


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search with all flags applied: what will run. Validated when made, before anything costs time."""

    search: Search
    profile: Profile
    fixed: Point
    seed: int
    method: Method = DEFAULT

    def __post_init__(self) -> None:
        for point in self.first_points():
            self.config(point)
        if self.profile.trials < 1:
            raise ConfigError(f"The value of `--trials` is {self.profile.trials}, but must be >= 1")

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.fixed["task"])

    @cached_property
    def objective(self) -> str:
        """The metric that decides."""
        return str(self._task().objective)

    @cached_property
    def direction(self) -> Literal["max", "min"]:
        """Whether the objective is to be large or small."""
        return "max" if self._task().direction == "max" else "min"

    def _task(self) -> Any:
        from gpt2core.tasks import TASKS  # PyTorch takes a second to import: not for --help

        return lookup(TASKS, self.task, "task")

    @property
    def space(self) -> dict[str, Domain]:
        """The keys that are searched: those of the question that no flag has fixed."""
        both = {**self.search.scientific, **self.search.nuisance}
        return {key: domain for key, domain in both.items() if key not in self.fixed}

    @property
    def replicates(self) -> int:
        """Runs of the final comparison: the best trials and the baseline on each fresh seed."""
        return (1 + self.profile.confirm) * self.profile.replicates

    @property
    def epochs(self) -> int:
        """Epochs of a trial that nothing stops."""
        return self.config(self.search.baseline).epochs

    @property
    def grace(self) -> int:
        """The first epoch at which a trial may be stopped: a third of them.

        Earlier, those that learn fast and end worse stop those that learn slowly: see `tests/benchmarks/replay.py`.
        """
        return min(self.epochs, self.profile.grace or max(1, self.epochs // REDUCTION))

    def first_points(self) -> list[dict[str, Any]]:
        """The baseline and the study's points, restricted to what is searched, without repeats."""
        points: list[dict[str, Any]] = []
        for point in [self.search.baseline, *self.search.tasks[self.task].study]:
            searched = {key: {**self.search.baseline, **point}[key] for key in self.space}
            if searched not in points:
                points.append(searched)
        return points

    def config(self, point: Point, **changes: Any) -> RunConfig:
        """The validated configuration of a point of the space; raise ConfigError."""
        searched = {key: value for key, value in point.items() if key in self.space}
        return RunConfig.of({"seed": self.seed, **self.fixed, **searched, **changes})

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the trials; how many there are may grow, so it is not part of it."""
        values = {
            "space": {key: str(domain) for key, domain in self.space.items()},
            "first": self.first_points(),
            "baseline": self.config(self.search.baseline).identity(),
            "grace": self.grace,
            "method": self.method.to_dict(),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def search_of(script: str) -> Search:
    """The search of a script in this folder, by the script's name; raise ConfigError where there is none."""
    try:
        if not script.isidentifier():  # it may be from a file
            raise ImportError
        search: Search = importlib.import_module(f"searches.{script}").SEARCH
    except (ImportError, AttributeError):
        raise ConfigError(f"There is no search script `{script}`") from None
    return search


def make_plan(
    search: Search,
    profile: str,
    *,
    smoke: bool = False,
    settings: Point | None = None,
    seed: int = 11711,
    method: Method = DEFAULT,
    **changes: Any,
) -> Plan:
    """Apply the flags to a search. `settings` are the values of `--set`; one of a searched key fixes it."""
    settings = dict(settings or {})
    task = settings.pop("task", next(iter(search.tasks)))
    if task not in search.tasks:
        raise ConfigError(f"The task `{task}` is none of this search: {nearest(str(task), search.tasks)}")
    chosen = SMOKE if smoke else lookup(search.profiles, profile, "profile")
    chosen = Profile(**{**chosen.__dict__, **{k: v for k, v in changes.items() if v is not None}})
    fixed = {"task": task, **search.tasks[task].fixed, **chosen.run, **search.fixed, "model": chosen.model, **settings}
    for key in settings:
        if key in ("model", "seed"):
            raise ConfigError(f"The key `{key}` cannot be `--set`: use --{key}")
    return Plan(search=search, profile=chosen, fixed=fixed, seed=seed, method=method)
