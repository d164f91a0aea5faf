"""The plan of a search: its question with all flags applied."""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpt2core.component import lookup, nearest
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.errors import ConfigError
from gpt2core.naming import words
from searches.conditions import Conditions
from searches.deciding.comparing import AS_PLANNED, Comparing
from searches.deciding.method import DEFAULT, Method
from searches.domains import Choice, Domain, Space
from searches.formatting import setting_text
from searches.question import SMOKE, Point, Profile, Search, search_in
from searches.running.events import WarmStart
from trainables.programs.run import Program, ProgramRun
from trainables.runs import Run, identity_of, keys_of

if TYPE_CHECKING:  # too slow to import for --help
    from gpt2core.metrics.direction import Direction
    from gpt2core.metrics.metric import Metric
    from searches.deciding.decision import Design

WARM_START = "warm-start"  # origin of trials with the points of earlier searches
REDUCTION = 3  # of successive halving: one in REDUCTION trials passes a rung
MARGIN = 0.01  # of a program's metric, which is one point of an accuracy
MOST_LEVELS = 8  # values that a factor may have; with more, the best trials are compared with the reference


@dataclass(frozen=True, kw_only=True)
class Level:
    """One value of the factor. A search without a factor has a single level with an empty value.

    `point` has all keys of the factor; `value` lacks those that its runs do not read (full tuning has no rank). `drawn` are the
    other searched keys that its runs may have, in the order of drawing.
    """

    point: Point
    value: Point
    drawn: tuple[str, ...]

    @property
    def name(self) -> str:
        """The value as text, such as `rank 8`."""
        return ", ".join(setting_text(key, value) for key, value in self.value.items())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search with all flags applied. Validated when created, before anything runs."""

    search: Search
    profile: Profile
    fixed: Point
    seed: int
    method: Method = DEFAULT
    comparing: Comparing = AS_PLANNED
    program: Program | None = None  # that all trials run; None if they train with this project
    warm_start: Sequence[WarmStart] = ()  # by earlier search

    def __post_init__(self) -> None:
        for point in self.first_points:
            self.run(point)
        if self.profile.trials < 1:
            raise ConfigError(f"The value of `--trials` is {self.profile.trials}, but must be >= 1")
        if self.comparing.each and len(self.levels) < 2:
            rule = f"has no factor of 2 to {MOST_LEVELS} values; give a number"
            raise ConfigError(f"The value of `--confirm` is each, but this search {rule}")

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.fixed["task"])

    @cached_property
    def metrics(self) -> "Mapping[str, Metric]":
        """All metrics of the task."""
        if self.program is not None:
            return {self.metric.name: self.metric}
        from gpt2core.tasks import TASKS  # PyTorch is too slow to import for --help

        metrics: Mapping[str, Metric] = TASKS[self.task].metrics
        return metrics

    @cached_property
    def metric(self) -> "Metric":
        """The metric that the search optimizes; raise ConfigError if the task lacks it."""
        return metric_of(self.program) if self.program else metric_of_run(self.config(self.search.reference))

    @property
    def chooses_one_model(self) -> bool:
        """Whether a trial has one model: a program's has none that is known, and a run of several tasks one for each."""
        return self.program is None and not self.task_objectives

    @cached_property
    def task_objectives(self) -> "dict[str, Metric]":
        """The metric of each task of a search over runs of several; empty for a single task."""
        if self.program is not None:
            return {}
        from gpt2core.tasks import TASKS  # PyTorch is too slow to import for --help

        return TASKS[self.task].objectives(self.config(self.search.reference))

    @property
    def objective(self) -> str:
        """The name of the metric that the search optimizes."""
        return self.metric.name

    @property
    def direction(self) -> "Direction":
        """Whether the objective is maximized or minimized."""
        return self.metric.direction

    @property
    def margin(self) -> float:
        """Differences of the objective below this do not matter."""
        return self.metric.margin if self.comparing.margin is None else self.comparing.margin

    @property
    def space(self) -> dict[str, Domain]:
        """The searched keys: those of the question that no flag fixes."""
        both = {**self.search.scientific, **self.search.nuisance}
        return {key: domain for key, domain in both.items() if key not in self.fixed}

    @cached_property
    def conditions(self) -> Conditions:
        """Which searched keys a point has."""
        return Conditions(self.space, lambda values: keys_of(self.run(values)))

    def domain_text(self, key: str) -> str:
        """Return the domain of a searched key in words, with the values of other keys that it depends on."""
        if key in self.unread:
            return f"{self.space[key]} (no run reads it)"
        condition = self.conditions.words(key)
        return f"{self.space[key]} (with {condition})" if condition else str(self.space[key])

    @cached_property
    def levels(self) -> list[Level]:
        """The values of the factor in order, or a single level if the factor does not have 2 to MOST_LEVELS values.

        Raises ConfigError if a searched key outside the factor decides whether runs have a key of the factor.
        """
        space, factor = self.space, [key for key in self.search.factor if key in self.space]
        domains = [domain.values for key in factor if isinstance(domain := space[key], Choice)]
        if not factor or len(domains) < len(factor):
            return [self._whole_space]
        levels: dict[str, Level] = {}
        for values in itertools.product(*domains):
            point = dict(zip(factor, values, strict=True))
            branches = [self.conditions.active(branch) for branch in self.conditions.branches(point)]
            for key in factor:
                if len({key in active for active in branches}) > 1:
                    raise ConfigError(self._undecided(key))
            value = {key: point[key] for key in factor if key in branches[0]}
            drawn = tuple(key for key in self.conditions.order if key not in factor and any(key in b for b in branches))
            levels.setdefault(json.dumps(value), Level(point=point, value=value, drawn=drawn))
        return list(levels.values()) if 2 <= len(levels) <= MOST_LEVELS else [self._whole_space]

    @property
    def _whole_space(self) -> Level:
        return Level(point={}, value={}, drawn=tuple(self.conditions.order))

    def _undecided(self, key: str) -> str:
        deciding = [f"`{name}`" for name in self.conditions.keys if name not in self.search.factor]
        return (
            f"This search compares the values of `{key}`, but {' and '.join(deciding)}, which it searches too, decides whether a "
            "run has it: fix that with --set"
        )

    def level_of(self, point: Point) -> Level:
        """Return the value of the factor at a point."""
        if not self.has_factor:
            return self.levels[0]
        return next(level for level in self.levels if level.value.items() <= point.items())

    def is_upper_reference(self, level: Level) -> bool:
        """Whether a value of the factor only shows what is possible."""
        reference = self.search.upper_reference
        return bool(reference) and reference.items() <= level.value.items()

    @property
    def has_factor(self) -> bool:
        """Whether the search compares the values of a factor."""
        return len(self.levels) > 1

    @property
    def factor(self) -> list[str]:
        """The keys of the factor; empty without one."""
        return list(self.levels[0].point)

    @property
    def factor_name(self) -> str:
        """The factor as text, such as `rank`."""
        return " and ".join(map(words, self.factor))

    @property
    def balanced(self) -> bool:
        """Whether each value of the factor gets the same number of trials; needs enough trials, and no population."""
        return self.has_factor and self.method.scheduler != "pbt" and self.profile.trials >= len(self.levels)

    @cached_property
    def views(self) -> list[Level]:
        """The parts of the space with the same number of trials and their own sampler and rungs: the values of a balanced factor,
        else the whole space."""
        return self.levels if self.balanced else [self._whole_space]

    def view_of(self, point: Point) -> Level:
        """Return the view that a point is in."""
        return self.level_of(point) if self.balanced else self.views[0]

    @property
    def per_view(self) -> int:
        """The number of trials of each view."""
        return math.ceil(self.profile.trials / len(self.views))

    @property
    def trials(self) -> int:
        """The number of trials, rounded up to the same number for each view."""
        return self.per_view * len(self.views)

    @property
    def compares_each(self) -> bool:
        """Whether the best trials of each value of the factor are compared, rather than the best trials with the reference."""
        return self.has_factor and self.profile.confirm is None

    @property
    def compared(self) -> int:
        """The number of settings in the final comparison; 0 if there are fewer than two."""
        wanted = len(self.levels) if self.compares_each else 1 + (self.profile.confirm or 1)
        return min(wanted, self.trials) if self.trials > 1 else 0

    @cached_property
    def design(self) -> "Design | None":
        """After how many fresh seeds the settings are compared; None without a comparison."""
        from searches.deciding.decision import Design  # SciPy is too slow to import for --help

        most = self.profile.replicates
        if not most:
            return None
        return Design.until_decided(most) if self.profile.until_decided else Design.fixed(most)

    @property
    def replicates(self) -> int:
        """The maximum number of runs in the final comparison."""
        return self.compared * self.profile.replicates

    @property
    def epochs(self) -> int:
        """The greatest number of epochs of a trial, which it has unless it is stopped early."""
        domain = self.space.get("epochs")
        if domain is None:
            return self.run(self.search.reference).epochs
        return max(domain.values) if isinstance(domain, Choice) else int(domain.high)

    @property
    def grace(self) -> int:
        """The first epoch at which a trial may be stopped early: by default, after a third of its epochs.

        Earlier rungs stop slow learners in favor of trials that learn fast but end worse; see `tests/benchmarks/replay.py`.
        """
        return min(self.epochs, self.profile.grace or max(1, self.epochs // REDUCTION))

    @cached_property
    def first_points(self) -> list[dict[str, Any]]:
        """The points to try first, without duplicates: the reference, the reference with each other value of the factor, the best
        points of earlier searches, and the study's points."""
        others = [level.point for level in self.levels] if self.balanced else []
        points: list[dict[str, Any]] = []
        runs: list[dict[str, Any]] = []
        for point in [self.search.reference, *others, *self.warm_points, *self.search.tasks[self.task].study]:
            complete = self.complete(point)
            run = identity_of(self.run(complete))
            if run not in runs:
                points.append(complete)
                runs.append(run)
        return points

    @cached_property
    def warm_points(self) -> list[dict[str, Any]]:
        """The points of earlier searches, each with all values of a factor that gets equal numbers of trials."""
        levels = [level.point for level in self.levels] if self.balanced else [{}]
        points = [point for start in self.warm_start for point in start.points]
        return [self.complete({**point, **level}) for point in points for level in levels]

    def known_points(self) -> list[dict[str, Any]]:
        """Return the first points that get a trial: at most `per_view` of each view."""
        points: list[dict[str, Any]] = []
        trials: Counter[str] = Counter()
        for point in self.first_points:
            name = self.view_of(point).name
            trials[name] += 1
            points += [point] if trials[name] <= self.per_view else []
        return points

    def origin(self, number: int, point: Point) -> str:
        """Return where the point of trial `number` comes from: `reference`, `study`, `default` (the reference with another value
        of the factor), `warm-start` or `sampler`."""
        if number == 0:
            return "reference"
        if point not in self.first_points:
            return "sampler"
        if point in self.warm_points:
            return WARM_START
        study = [{**self.search.reference, **change} for change in self.search.tasks[self.task].study]
        return "study" if any(point.items() <= values.items() for values in study) else "default"

    def complete(self, point: Point) -> dict[str, Any]:
        """Return a point with all keys that are active at it and no others; missing ones have the values of the reference."""
        values = {**self.search.reference, **point}
        active = self.conditions.active(values)
        return {key: values[key] for key in self.space if key in active}

    def config(self, point: Point, **changes: Any) -> RunConfig:
        """Return the validated configuration of a point; missing keys have the values of the reference. Raises ConfigError."""
        import gpt2core.identity  # noqa: F401  # registers the components and their keys; too slow for --help

        values = {**self.search.reference, **point}
        searched = {key: values[key] for key in self.space}
        return RunConfig.of({"seed": self.seed, **self.fixed, **searched, **changes})

    def run(self, point: Point) -> Run:
        """Return what a trial at a point runs; missing keys have the values of the reference. Raises ConfigError."""
        if self.program is None:
            return self.config(point)
        values = {**self.search.reference, **point}
        values = {**self.fixed, **{key: values[key] for key in self.space}}
        del values["task"]
        own = {"values": values, "epochs": values.get("epochs", 1), "seed": self.seed}
        return ProgramRun.of({**self.program.model_dump(), **own})

    @cached_property
    def unread(self) -> set[str]:
        """The searched keys that no run of the search reads."""
        return self.space.keys() - {
            key for values in self.conditions.combinations for key in self.conditions.active(values)
        }

    @cached_property
    def fixed_read(self) -> dict[str, Any]:
        """The fixed keys that some run of the search reads: a profile may fix keys of other tasks."""
        if self.program is not None:
            return dict(self.fixed)
        read = {key for values in self.conditions.combinations for key in keys_of(self.run(values))}
        return {key: value for key, value in self.fixed.items() if key in read}

    @property
    def places(self) -> dict[str, Any]:
        """The settings of runs that are only paths, which may differ between two starts of a search."""
        if self.program is not None:
            return {"folder": self.program.folder}
        return {key: self.fixed[key] for key in keys_that_decide("place") if key in self.fixed}

    @property
    def shared(self) -> dict[str, Any]:
        """All settings of the reference: a point may read keys that it does not. Paths are left out; data has its own digest."""
        if self.program is not None:
            return identity_of(self.run(self.search.reference))
        irrelevant = {*keys_that_decide("place"), *keys_that_decide("nothing")}
        return self.config(self.search.reference).model_dump(exclude=irrelevant)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the trials, except their number, which may grow."""
        values = {
            "space": {key: repr(domain) for key, domain in self.space.items()},
            "first": self.first_points,
            "run": self.shared,
            "candidates": dict(self.profile.candidates) if self.search.learns_from_pairs else {},
            "grace": self.grace,
            "method": self.method.to_dict(),
            "factor": [level.name for level in self.levels],
            "ahead": self.profile.ahead,
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def make_plan(
    search: Search,
    profile: str,
    *,
    smoke: bool = False,
    settings: Point | None = None,
    domains: Space | None = None,
    seed: int = 11711,
    method: Method = DEFAULT,
    comparing: Comparing = AS_PLANNED,
    **changes: Any,
) -> Plan:
    """Apply the flags to a search. Raises ConfigError.

    `settings` are the values of `--set`, which fix searched keys; `domains` those of `--search`, which add or replace them.
    """
    settings = dict(settings or {})
    task = settings.pop("task", next(iter(search.tasks)))
    if task not in search.tasks:
        raise ConfigError(f"This search has no task `{task}`: {nearest(str(task), search.tasks)}")
    chosen = SMOKE if smoke else lookup(search.profiles, profile, "profile")
    chosen = chosen.but(**{name: value for name, value in changes.items() if value is not None})
    if comparing.each:
        chosen = chosen.but(confirm=None)
    fixed = {"task": task, **search.tasks[task].fixed, **chosen.run, **search.fixed, "model": chosen.model}
    fixed |= {**comparing.of_trials(), **method.of_trials(), **settings}
    for key in settings:
        if key in ("model", "seed", "objective", "folds"):
            raise ConfigError(f"The key `{key}` cannot be `--set`: use --{key}")
        if key in ("fold", "judged", "scored_on", "dev_part"):
            raise ConfigError(f"The key `{key}` cannot be `--set`: the search sets it; see --folds and --confirm-on")
    for key in (domains or {}).keys() & settings.keys():
        raise ConfigError(f"Both `--set {key}` and `--search {key}` are given, but a key is either fixed or searched")
    if domains:
        search = search_in(search, domains, fixed)
        fixed = {key: value for key, value in fixed.items() if key not in domains}
    plan = Plan(search=search, profile=chosen, fixed=fixed, seed=seed, method=method, comparing=comparing)
    if domains:
        check_read([plan], domains)
    return plan


def check_read(plans: Sequence[Plan], keys: Iterable[str]) -> None:
    """Raise ConfigError for a key that no run of these plans reads."""
    from gpt2core import keys as of_runs  # PyTorch is too slow to import for --help

    of_runs.check_read([plan.config(values) for plan in plans for values in plan.conditions.combinations], keys)


def metric_of(program: Program) -> "Metric":
    """Return the metric of a program."""
    from gpt2core.metrics.metric import Metric  # NumPy is too slow to import for --help

    return Metric(name=program.metric, direction=program.direction, unit="", margin=MARGIN, digits=4)


def metric_of_run(run: Run) -> "Metric":
    """Return the metric that a search with this run optimizes; raise ConfigError if its task lacks it."""
    if isinstance(run, ProgramRun):
        return metric_of(run)
    from gpt2core.tasks import TASKS  # PyTorch is too slow to import for --help
    from gpt2core.tasks.base import objective_of

    return objective_of(TASKS[run.task], run)
