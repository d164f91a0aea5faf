"""The question of a search.

The terms are those of google-research/tuning_playbook: scientific hyperparameters are compared, nuisance hyperparameters are
tuned to make the comparison fair, the others are fixed.
"""

import importlib
import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from gpt2core.component import Config, nearest
from gpt2core.config import OWN_TASKS, known_keys
from gpt2core.errors import ConfigError, visible
from searches.domains import Domain, Space

Point = Mapping[str, Any]  # searched key -> value
#: Values of the quick profile on own data, and others if texts are generated.
OWN_RUN, LENGTH = {"train_examples": 1000, "dev_examples": 300}, {"max_new_tokens": 64}
IN_PYTHON = "<python>"  # stands for the file of a search that a program runs


class Profile(Config):
    """The size of a search: its model, number of trials, number of fresh seeds (`replicates`) and values of its runs."""

    model: str = Field(description="model of all runs")
    trials: int = Field(description="number of trials, rounded up to equal numbers for the values of the factor", ge=1)
    replicates: int = Field(description="fresh seeds per setting; with `until_decided`, the maximum", ge=0)
    confirm: int | None = Field(
        None,
        description="number of best trials to compare with the reference; none: the best trial of each value of the factor, or "
        "without a factor the best trial",
        ge=1,
    )
    until_decided: bool = Field(False, description="add seeds until the question is decided")
    folds: int = Field(
        3, description="folds of the training texts that compare, if the dev split is too small to divide", ge=2
    )
    grace: int | None = Field(
        None, description="first epoch at which a trial may be stopped early; overrides `Plan.grace`", ge=1
    )
    ahead: int = Field(
        8, description="trials before it that a proposal does not wait for, so that at most one more run at once", ge=1
    )
    run: Mapping[str, Any] = Field({}, description="keys of all runs that are fixed")
    candidates: Mapping[str, Any] = Field(
        {}, description="for generated pairs: contexts, and values of the critics and of GenerationConfig"
    )


#: The profile of `--smoke` for every search: an end-to-end check in about a minute.
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
        "tau": 0.2,  # few pairs of a smoke test are paraphrases
        "min_length_ratio": 0.2,
        "max_length_ratio": 5.0,
        "pairs_temperature": 0.7,
        "pairs_critic": "overlap",
        "pairs_round": 1,
        "pairs_examples": 4,
        "negatives": 0.0,  # and few are hard negatives
    },
    candidates={"contexts": 12, "candidates": 6},
)


class Case(Config):
    """A task of a search: its fixed values, and the points of the published study, which are tried right after the reference."""

    fixed: Mapping[str, Any] = Field({}, description="keys of all runs of the task that are fixed")
    study: Sequence[Mapping[str, Any]] = Field(
        (), description="points to try right after the reference; missing keys take the reference's values"
    )


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question about a search space. Trial 0 is `reference`; the points of the published study follow, then the sampler's.

    `factor` names the scientific keys whose values the question compares. If they have at most `plan.MOST_LEVELS` combinations,
    each combination gets the same number of trials and its own sampler, and the best trials of all are compared.
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
    #: A value of the factor that shows what is possible, but cannot win.
    upper_reference: Point = field(default_factory=dict)
    learns_from_pairs: bool = False  # generate pairs by `Profile.candidates` before the first trial
    own_question: str = ""  # the question about a user's own `{data}`; empty if it cannot be asked about that
    own_tasks: Sequence[str] = tuple(OWN_TASKS)  # the tasks on own data that it can be asked for
    costs: Sequence[str] = ()  # metrics to minimize in the Pareto front, next to the objective
    equal_parameters: bool = (
        False  # refuse points whose adapter keeps another number of parameters than the reference's
    )
    constraints: Sequence[str] = ()  # default of --constraint
    warm_start: Sequence[str] = ()  # default of --warm-start
    imports: Sequence[str] = ()  # modules that register own parts, next to those of --import
    file: str = ""  # the script or TOML file that states the search; empty for a script in this folder
    definition: Mapping[str, Any] = field(default_factory=dict)  # the content of a search file, if it was read from one

    def __post_init__(self) -> None:
        """Raise ConfigError if a part has another type, or if the parts contradict each other."""
        self._check_types()
        self._check_roles()
        points = [("the reference", self.reference), ("the upper reference", self.upper_reference)]
        points += [
            (f"the study's points of {task}", point) for task, case in self.tasks.items() for point in case.study
        ]
        for key, domain in {**self.scientific, **self.nuisance}.items():
            if key not in self.reference:
                raise ConfigError(f"The reference lacks a value of the searched key `{key}`")
            for where, point in points:
                if key in point and point[key] not in domain:
                    raise ConfigError(f"The value of `{key}` is {point[key]!r} in {where}, but must be {domain}")

    def _check_types(self) -> None:
        """Check what Python does not, and a notebook easily gets wrong."""
        if not self.question.strip():
            raise ConfigError(f"The value of `question` is {self.question!r}, but must not be empty")
        if isinstance(self.factor, str):
            raise ConfigError(f"The factor is {self.factor!r}, but must be a list of keys: [{self.factor!r}]")
        for name, case in self.tasks.items() if isinstance(self.tasks, Mapping) else [("tasks", self.tasks)]:
            if not isinstance(case, Case):
                raise ConfigError(f"The value of `{name}` is {case!r}, but must be as in tasks={{'sonnet': Case()}}")
        for key, domain in {**self.scientific, **self.nuisance}.items():
            if not isinstance(domain, Domain):
                raise ConfigError(
                    f"The values of `{key}` are {domain!r}, but must be as in Choice(1, 2) or LogUniform(1e-5, 1e-2)"
                )

    def _check_roles(self) -> None:
        for key in self.factor:
            if key not in self.scientific:
                rule = f"its keys must be scientific keys: {nearest(key, self.scientific)}"
                raise ConfigError(f"The factor has `{key}`, but {rule}")
        for key in self.upper_reference.keys() - set(self.factor):
            raise ConfigError(
                f"The upper reference has `{key}`, but must be a value of the factor: {list(self.factor)}"
            )
        for key in self.reference.keys() - self.scientific.keys() - self.nuisance.keys():
            raise ConfigError(
                f"The reference has `{key}`, which is not searched: leave it out, and fix its value in `fixed`"
            )
        for first, second in itertools.combinations((self.scientific, self.nuisance, self.fixed), 2):
            for key in first.keys() & second.keys():
                raise ConfigError(f"The key `{key}` has two roles, but must be scientific, nuisance or fixed")

    @property
    def source(self) -> str:
        """The file that states the search."""
        return self.file or f"searches/{self.name}.py"

    @property
    def command(self) -> str:
        """The command that runs the search, without flags; empty if a program calls `run`."""
        if self.file == IN_PYTHON:
            return ""
        return script_command(self.source) if self.source.endswith(".py") else file_command(self.file)


def on_own_data(search: Search, task: str, data: str) -> Search:
    """Return a search that asks its question about a user's own data, named `data`; raise ConfigError if it cannot.

    Its trials include the study's points for its first task. The quick profile trains on few texts, whatever their number.
    """
    if not search.own_question:
        able = ", ".join(name for name in scripts() if search_of(name).own_question)
        raise ConfigError(
            f"The search {search.name} is about its own data, not yours; searches that can run on yours: {able}"
        )
    if task not in search.own_tasks:
        needed = " or ".join(OWN_TASKS[name] for name in search.own_tasks)
        raise ConfigError(f"The search {search.name} needs {needed} to run on your own data")
    run = OWN_RUN | (LENGTH if task == "generate" else {})
    profiles = {
        name: profile.but(run={**profile.run, **run}) if name == "quick" else profile
        for name, profile in search.profiles.items()
    }
    return replace(
        search,
        question=search.own_question.replace("{data}", data),
        tasks={task: Case(study=next(iter(search.tasks.values())).study)},
        profiles=profiles,
    )


def script_command(path: str) -> str:
    """Return the command that runs a search script, without flags.

    A script of this folder runs as a module unless it is at a relative path, for instance where only the package is installed.
    """
    script, own = Path(path), Path(__file__).with_name(Path(path).name)
    if script.is_file():
        is_module = script.is_absolute() and script.resolve() == own.resolve()
    else:
        is_module = own.is_file() and script.parent.name == own.parent.name
    return f"gpt2-search run {script.stem}" if is_module else f"python {shlex.quote(path)}"


def file_command(path: str) -> str:
    """Return the command that runs the search of a search file, without flags."""
    return shlex.join(["gpt2-search", "run", path])


def scripts() -> list[str]:
    """Return the names of the search scripts in this folder."""
    return [
        path.stem for path in Path(__file__).parent.glob("*.py") if "\nSEARCH = " in path.read_text(encoding="utf-8")
    ]


def search_of(script: str) -> Search:
    """Return the search of a script in this folder; raise ConfigError if there is no such script."""
    try:
        if not script.isidentifier():  # the name may come from a file
            raise ImportError
        search: Search = importlib.import_module(f"searches.{script}").SEARCH
    except (ImportError, AttributeError):
        raise ConfigError(f"There is no search script `{visible(script, 60)}`: {nearest(script, scripts())}") from None
    return search


def search_in(search: Search, domains: Space, fixed: Point) -> Search:
    """Return a search that also varies the keys of `domains`, or varies them there. New keys are nuisance keys.

    The reference keeps its values (for new keys: those of `fixed`, else the defaults), or takes the nearest ones of `domains`.
    The study's points outside `domains` are dropped.
    """
    defaults = {key: field.default for key, field in known_keys().items()}
    before = {**defaults, **fixed, **search.reference}
    scientific = {key: domains.get(key, domain) for key, domain in search.scientific.items()}
    nuisance = {**search.nuisance, **{key: domain for key, domain in domains.items() if key not in scientific}}
    tasks = {
        name: case.but(study=[point for point in case.study if _is_within(point, domains)])
        for name, case in search.tasks.items()
    }
    reference = {**search.reference, **{key: domain.nearest(before[key]) for key, domain in domains.items()}}
    still = {key: value for key, value in search.fixed.items() if key not in domains}
    return replace(search, scientific=scientific, nuisance=nuisance, fixed=still, tasks=tasks, reference=reference)


def _is_within(point: Point, domains: Space) -> bool:
    return all(point[key] in domains[key] for key in point.keys() & domains.keys())
