"""The options of a search: its flags, validated, with its plan."""

import argparse
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from gpt2core.cli import absolute, absolute_model, at_least, key_values, settings
from gpt2core.component import declared_keys
from gpt2core.config import OWN_FLAGS, keys_that_decide, known_keys
from gpt2core.errors import ConfigError
from gpt2core.parts import import_modules, require
from gpt2core.storage import address
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method, limit, objectives
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.flags import imports_of, parser, run_keys, typed_flags
from searches.places import default_name, search_folder, search_name, storage_path
from searches.plan import Plan, check_read, make_plan
from searches.question import Search, on_own_data
from searches.result_files import CANDIDATES, SEARCHES
from searches.running.budget import Budget
from searches.running.remote_ledger import refresh
from searches.values import domain_of
from searches.warm_start import warm_starts

LEAST, MOST_SEEDS = 3, 8  # of `--until decided`: seeds at its first look, and its default for `--replicates`
WEB = ("http://", "https://")  # how an address that `--notify` can POST to begins


@dataclass(frozen=True, kw_only=True)
class Options:
    """The parsed flags of a search, with its validated plan."""

    plan: Plan
    name: str
    storage: str | None
    tracking_uri: str | None
    max_concurrent: int | None
    workers_per_trial: int
    gpus_per_worker: float | None
    pack: str
    checkpoint_minutes: float
    trace: bool
    resume: str
    plan_only: bool
    json: bool
    wide: bool
    notify: str | None
    final_test: bool
    budget: Budget
    argv: list[str]
    imports: Sequence[str] = ()  # modules that register own parts

    @property
    def storage_folder(self) -> Path:
        """The local folder of all results; raise ConfigError for an invalid address."""
        return storage_path(self.storage)

    @property
    def results_folder(self) -> Path:
        """The local folder of this search's results; raise ConfigError for an invalid address."""
        return self.storage_folder / SEARCHES / self.name

    @property
    def scores_test(self) -> bool:
        """Whether finalists are scored on the test split at the end."""
        return self.final_test or self.plan.comparing.on == "test"


def receiver(text: str | None) -> str | None:
    """Validate `--notify`; raise ConfigError unless it is a URL or a command that exists."""
    if text is None or text.startswith(WEB):
        return text
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"The value of `--notify` is {text!r}, but its quotes must match ({error})") from None
    if not command or shutil.which(command[0]) is None:
        raise ConfigError(f"The value of `--notify` is {text!r}, but must be an http(s) URL, or a command that exists")
    return text


def pack(text: str) -> str:
    """Validate `--pack`; raise ConfigError unless it is `auto`, `off` or a number >= 2."""
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) > 1):
        raise ConfigError(f"The value of `--pack` is {text!r}, but must be auto, off, or a number >= 2")
    return text


def confirm(text: str | None) -> int | None:
    """Return N of `--confirm N`, or None for `each` or no value; raise ConfigError otherwise."""
    if text in (None, "each"):
        return None
    if not (text.isdecimal() and int(text)):
        raise ConfigError(f"The value of `--confirm` is {text!r}, but must be each, or a number >= 1")
    return int(text)


def until(text: str | None, seeds: int | None) -> tuple[bool | None, int | None]:
    """Return whether `--until` adds seeds until the question is decided, and the (maximum) number of seeds.

    None stands for the profile's value. Raises ConfigError.
    """
    if text is None:
        return None, seeds
    if text == "decided":
        if seeds is not None and seeds < LEAST:
            raise ConfigError(f"The value of `--replicates` is {seeds}, but must be >= {LEAST} with `--until decided`")
        return True, MOST_SEEDS if seeds is None else seeds
    number = text.removeprefix("seeds:")
    if not (text.startswith("seeds:") and number.isdecimal() and int(number)):
        raise ConfigError(f"The value of `--until` is {text!r}, but must be decided, or seeds:N with N >= 1")
    if seeds is not None and seeds != int(number):
        raise ConfigError(f"`--until {text}` and `--replicates {seeds}` contradict each other; give only one")
    return False, int(number)


def method_settings(given: dict[str, Any], sampler: str, scheduler: str) -> dict[str, Any]:
    """Pop the sampler's and scheduler's keys from the `--set` values; return those that differ from their defaults.

    Raises UnknownNameError for an unknown sampler or scheduler, ConfigError for a key that neither reads.
    """
    chosen = (SAMPLERS[sampler], SCHEDULERS[scheduler])
    keys = {name: entry.keys for entry in chosen for name in entry.keys.model_fields}
    changed: dict[str, Any] = {}
    for name in given.keys() & declared_keys("sampler", "scheduler").keys():
        if name not in keys:
            readers = [*SAMPLERS.readers(name), *SCHEDULERS.readers(name)]
            raise ConfigError(
                f"The key `{name}` is for {', '.join(readers)}, but this search uses {sampler} and {scheduler}"
            )
        value = getattr(keys[name].of({name: given.pop(name)}), name)
        changed |= {name: value} if value != keys[name].model_fields[name].default else {}
    return changed


def parse_for_user(load: Callable[[], Search], argv: list[str]) -> Options:
    """Parse the flags that the user gave for the search that `load` returns, and import the modules that both name.

    The modules come first, since they register what the search and the other flags may name. Raises UserError.
    """
    import_modules(imports_of(argv))
    search = load()
    import_modules(search.imports)
    return parse(search, argv)


def method_of(o: argparse.Namespace, keys: Mapping[str, Any], constraints: Sequence[str] = ()) -> Method:
    """Return the search method of the flags; `keys` are those of sampler and scheduler. Raises ConfigError."""
    return Method(
        sampler=o.sampler,
        scheduler=o.scheduler,
        minimize=objectives(o.minimize),
        limits=tuple(map(limit, o.constraint or constraints)),
        plateau=o.plateau,
        settings=keys,
    )


def budget_of(o: argparse.Namespace) -> Budget:
    """Return the budget of the flags. Raises ConfigError."""
    hours, gpu_hours = o.budget_hours, o.budget_gpu_hours
    return Budget(hours=hours, gpu_hours=gpu_hours, usd=o.budget_usd, usd_per_gpu_hour=o.usd_per_gpu_hour)


def with_warm_start(plan: Plan, o: argparse.Namespace, name: str, earlier: Sequence[str] = ()) -> Plan:
    """Return the plan of the search `name` with the points of `--warm-start`, by default those of `earlier`. Raises UserError."""
    names = o.warm_start or earlier
    if not names:
        return plan
    folder = storage_path(o.storage) / SEARCHES / name
    refresh(folder)
    given_as = f"value of `{'--warm-start' if o.warm_start else 'warm_start'}`"
    return replace(
        plan, warm_start=warm_starts(plan, names, folder, partial(search_folder, o.storage, given_as=given_as))
    )


def planned(search: Search, o: argparse.Namespace, method: Method, fixed: Mapping[str, Any]) -> Plan:
    """Return the plan of a search whose runs have the keys `fixed`. Raises ConfigError, UnknownNameError."""
    form = "KEY=VALUES, such as lr=1e-5..1e-2:log"
    searched = key_values("--search", form, o.search, known_keys())
    until_decided, replicates = until(o.until, o.replicates)
    plan = make_plan(
        search,
        o.profile,
        method=method,
        comparing=Comparing(
            objective=o.objective, margin=o.margin, each=o.confirm == "each", on=o.confirm_on, folds=o.folds
        ),
        smoke=o.smoke,
        settings=fixed,
        domains={key: domain_of(key, text) for key, text in searched.items()},
        seed=o.seed,
        model=absolute_model(o.model) if o.model else None,
        trials=o.trials,
        replicates=replicates,
        confirm=confirm(o.confirm),
        until_decided=until_decided,
        grace=o.grace,
        ahead=o.ahead,
    )
    if o.set:
        check_read([plan], [pair.partition("=")[0] for pair in o.set])
    return plan


def run_settings(o: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that the flags fix, of runs, sampler and scheduler; places are absolute. Raises ConfigError."""
    from gpt2core.data.tables import is_on_hub

    fixed = settings(o.set, run_keys())
    direct = {key: value for key in ("data_dir", *OWN_FLAGS) if (value := getattr(o, key)) is not None}
    for key in sorted(direct.keys() & fixed.keys()):
        raise ConfigError(
            f"The key `{key}` is given by `--set` and by `--{key.replace('_', '-')}`, but must be given once"
        )
    fixed |= direct
    places = {key: fixed[key] for key in keys_that_decide("place") if fixed.get(key)}
    return fixed | {key: place if is_on_hub(place) else absolute(place) for key, place in places.items()}


def parse(search: Search, argv: list[str] | None = None) -> Options:
    """Parse and validate the flags. It imports nothing, as they may come from a ledger. Raises ConfigError, UnknownNameError."""
    o = parser(search.name, search.question, list(search.profiles), search.command).parse(argv)
    at_least(o, 1, "workers_per_trial", "max_concurrent", "trials", "plateau", "grace", "folds", "ahead")
    at_least(o, 0, "replicates", "gpus_per_worker", "checkpoint_minutes")
    imports = list(dict.fromkeys([*search.imports, *o.imports]))
    require(imports)

    from gpt2core.data.tables import is_on_hub
    from gpt2core.tasks.own import with_task

    fixed = run_settings(o)
    method = method_of(o, method_settings(fixed, o.sampler, o.scheduler), search.constraints)
    fixed, own = with_task(fixed), fixed.get("train") or ""
    if own:
        search = on_own_data(search, fixed["task"], own if is_on_hub(own) else PurePath(own).name)
    usual = default_name(search.name, PurePath(own).stem, "smoke" if o.smoke else o.profile)
    name = search_name(usual if o.name is None else o.name, "value of `--name`")
    if search.learns_from_pairs:
        fixed = {"pairs": address(storage_path(o.storage) / SEARCHES / name / CANDIDATES)} | fixed
    plan = with_warm_start(planned(search, o, method, fixed), o, name, search.warm_start)
    return Options(
        plan=plan,
        name=name,
        storage=o.storage,
        tracking_uri=o.tracking_uri,
        max_concurrent=o.max_concurrent,
        workers_per_trial=o.workers_per_trial,
        gpus_per_worker=o.gpus_per_worker,
        pack=pack(o.pack),
        checkpoint_minutes=o.checkpoint_minutes,
        trace=o.trace,
        resume=o.resume,
        plan_only=o.plan,
        json=o.json,
        wide=o.wide,
        notify=receiver(o.notify),
        final_test=o.final_test,
        budget=budget_of(o),
        imports=imports,
        argv=typed_flags(argv),
    )
