"""A search as a TOML or YAML file: what a script states as a `Search`, checked by the same rules, without code."""

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from gpt2core.component import Config, lookup, unknown_key
from gpt2core.config import OWN_TASKS, keys_that_decide, known_keys
from gpt2core.errors import ConfigError, UserError, first_line, shown
from gpt2core.parts import import_modules, require
from searches.domains import Choice, Domain, Numbers
from searches.plan import Plan, check_read, make_plan
from searches.question import Case, Profile, Search, search_of
from searches.search_text import SUFFIXES, content
from searches.values import RANGE, check_searchable, choice, domain_of, value_of

#: Keys that a file cannot fix, since something else says their value.
ELSEWHERE = {
    "task": "name it in [tasks.NAME]",
    "model": "name it in [profiles.NAME]",
    "seed": "use --seed",
    "folds": "use --folds",
    **dict.fromkeys(("fold", "judged", "scored_on", "dev_part"), "the search sets it; see --folds and --confirm-on"),
}
#: The parts of a file that name keys of runs.
SECTIONS = {"scientific", "nuisance", "fixed", "reference", "upper_reference", "tasks", "profiles"}


class SearchFile(Config):
    """The content of a search file. A range is text such as "1e-5..1e-2:log", other values are a list; none is "none"."""

    name: str = Field(description="name of the search", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    question: str = Field(description="the question that the search answers", min_length=1)
    factor: list[str] = Field([], description="scientific keys whose values the question compares")
    scientific: dict[str, Any] = Field({}, description="searched keys that the question is about")
    nuisance: dict[str, Any] = Field({}, description="searched keys that are tuned to make the comparison fair")
    fixed: dict[str, Any] = Field({}, description="keys that are the same in all runs")
    reference: dict[str, Any] = Field(description="a value of each searched key, for trial 0")
    upper_reference: dict[str, Any] = Field(
        {}, description="a value of the factor that shows what is possible, but cannot win"
    )
    tasks: dict[str, dict[str, Any]] = Field(description="the tasks; the first is the default", min_length=1)
    profiles: dict[str, dict[str, Any]] = Field(description="sizes; the first is the default", min_length=1)
    learns_from_pairs: bool = Field(False, description="generate pairs before the first trial")
    own_question: str = Field(
        "", description="the question about a user's own {data}; empty if it cannot be asked about that"
    )
    own_tasks: list[str] = Field(list(OWN_TASKS), description="the tasks on own data that it can be asked for")
    costs: list[str] = Field([], description="metrics to minimize in the Pareto front, next to the objective")
    equal_parameters: bool = Field(
        False, description="refuse points whose trained adapter keeps another number of parameters than the reference's"
    )
    constraints: list[str] = Field([], description="limits that the winner must respect, such as memory_gb<=8")
    warm_start: str | list[str] = Field(
        [], description="earlier searches in the storage whose best points are tried first"
    )
    imports: list[str] = Field([], description="modules that register own parts, from the working folder or installed")


def read(path: str) -> Search:
    """Return the search that a file states. Raises OSError, and UserError with file and section."""
    definition = content(path)
    with _within(path):
        import_modules(SearchFile.of(definition, strict=True).imports)
    return search_from(definition, path)


def search_at(place: str) -> Search:
    """Return the search of a search file or a script at a path, or of a script of this project by its name.

    A script is run to define it. Raises OSError, UserError.
    """
    if place.endswith(SUFFIXES):
        return read(place)
    if not place.endswith(".py"):
        return search_of(place)
    path = Path(place).expanduser()
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results, perhaps JSON
            search = runpy.run_path(str(path), run_name="search")["SEARCH"]
    except OSError:
        raise
    except KeyError:
        raise ConfigError(f"{place}: defines no SEARCH, so it is no search script") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{place}: cannot be run ({type(error).__name__}: {first_line(error)})") from None
    if not isinstance(search, Search):
        raise ConfigError(f"{place}: SEARCH has the type {type(search).__name__}, but must be a Search")
    return replace(search, file=place)


def definition_of(search: Search) -> dict[str, Any]:
    """Return the content of a file that states a search."""

    def stated(value: Any) -> Any:
        match value:
            case Choice():
                return [stated(one) for one in value.values]
            case Numbers():
                return f"{value.low!r}..{value.high!r}" + ":log" * value.is_log + ":int" * value.is_whole
            case Mapping():
                return {key: stated(one) for key, one in value.items()}
            case list() | tuple():
                return [stated(one) for one in value]
        return "none" if value is None else value

    definition = {name: stated(getattr(search, name)) for name in SearchFile.model_fields.keys() - SECTIONS}
    for name in ("scientific", "nuisance", "fixed", "reference", "upper_reference"):
        definition[name] = stated(getattr(search, name))
    definition["tasks"] = {name: stated(case.model_dump()) for name, case in search.tasks.items()}
    profiles = {name: profile.model_dump(exclude_defaults=True) for name, profile in search.profiles.items()}
    return {**definition, "profiles": stated(profiles)}


def search_from(definition: Mapping[str, Any], file: str) -> Search:
    """Return the search that the content of a file states; it can run without flags. Raises UserError with file and section."""
    from gpt2core.weights import check_model_name  # PyTorch is too slow to import for --help

    search = stated_by(definition, file)
    for name, profile in search.profiles.items():
        with _within(f"{file}, [profiles.{name}]"):
            check_model_name(profile.model)
    with _within(file):
        _check(search)
    return search


def stated_by(definition: Mapping[str, Any], file: str) -> Search:
    """Return the search that a definition states, which may need flags to run. Imports no module.

    Raises UserError with file and section.
    """
    with _within(file):
        stated = SearchFile.of(definition, strict=True)
        require(stated.imports)
        for task in stated.own_tasks:
            lookup(OWN_TASKS, task, "task on own data")
    with _within(f"{file}, [scientific]"):
        scientific = {key: _domain(key, value) for key, value in stated.scientific.items()}
    with _within(f"{file}, [nuisance]"):
        nuisance = {key: _domain(key, value) for key, value in stated.nuisance.items()}
    with _within(f"{file}, [fixed]"):
        fixed = _fixed(stated.fixed)
    with _within(f"{file}, [reference]"):
        reference = _values(stated.reference)
    with _within(f"{file}, [upper_reference]"):
        upper_reference = _values(stated.upper_reference)
    tasks = {name: _case(name, values, f"{file}, [tasks.{name}]") for name, values in stated.tasks.items()}
    profiles = {name: _profile(values, f"{file}, [profiles.{name}]") for name, values in stated.profiles.items()}
    with _within(file):
        return Search(
            **stated.model_dump(exclude=SECTIONS | {"warm_start"}),
            warm_start=[stated.warm_start] if isinstance(stated.warm_start, str) else stated.warm_start,
            tasks=tasks,
            scientific=scientific,
            nuisance=nuisance,
            fixed=fixed,
            reference=reference,
            upper_reference=upper_reference,
            profiles=profiles,
            file=file,
            definition=definition,
        )


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Begin the message of a UserError with a place."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{place}: {error}") from None


def _domain(key: str, value: Any) -> Domain:
    if key not in known_keys():
        raise ConfigError(unknown_key(key, known_keys()))
    check_searchable(key)
    if isinstance(value, list):
        return choice(key, [value_of(key, one, strict=True) for one in value])
    if not (isinstance(value, str) and RANGE.fullmatch(value)):
        raise ConfigError(
            f'The values of `{key}` are {shown(value)}, but must be a list, or a range such as "1e-5..1e-2:log"'
        )
    return domain_of(key, value)


def _values(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value_of(key, value, strict=True) for key, value in section.items()}


def _fixed(section: Mapping[str, Any]) -> dict[str, Any]:
    for key in section:
        if not can_be_fixed(key):
            why = ELSEWHERE.get(key, "paths differ between machines, so give it as a flag")
            raise ConfigError(f"The key `{key}` cannot be fixed here: {why}")
    return _values(section)


def can_be_fixed(key: str) -> bool:
    """Return whether a file may fix a key."""
    return key not in ELSEWHERE and key not in keys_that_decide("place")


def _case(task: str, section: Mapping[str, Any], place: str) -> Case:
    with _within(place):
        value_of("task", task)
        case = Case.of(section, strict=True)
        return Case(fixed=_fixed(case.fixed), study=[_values(point) for point in case.study])


def _profile(section: Mapping[str, Any], place: str) -> Profile:
    with _within(place):
        profile = Profile.of(section, strict=True)
        return profile.but(run=_fixed(profile.run))


def _check(search: Search) -> None:
    """Raise UserError if a plan of the search is invalid, or if no run reads a searched key."""
    pairs = {"pairs": "pairs"} if search.learns_from_pairs else {}
    plans: list[Plan] = [
        make_plan(search, profile, settings={"task": task, **pairs})
        for task in search.tasks
        for profile in search.profiles
    ]
    check_read(plans, {**search.scientific, **search.nuisance})
