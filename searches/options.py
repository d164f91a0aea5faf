"""The flags that all searches share. This file imports nothing heavy, so `--help` answers at once."""

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from gpt2core.cli import (
    Group,
    Parser,
    absolute,
    absolute_model,
    add_checkpoint_minutes,
    add_import,
    at_least,
    key_values,
    settings,
)
from gpt2core.component import Table, declared_keys, nearest
from gpt2core.config import OWN_FLAGS, keys_that_decide, known_keys, meaning
from gpt2core.errors import ConfigError, UserError
from gpt2core.parts import import_modules, require
from gpt2core.storage import address, fetch, folders, is_copy, local
from searches.deciding.comparing import Comparing
from searches.deciding.method import COSTS, DEFAULT, Method, limit, objectives
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.plan import Plan, check_settings, make_plan
from searches.question import Search, on_own_data
from searches.result_files import CANDIDATES, LEDGER, SEARCHES, TRIALS
from searches.running.budget import Budget
from searches.running.remote_ledger import refresh
from searches.values import domain_of, is_searchable
from searches.warm_start import warm_starts

EPILOG = """\
Use --set to fix any key of a run, for instance --set epochs=5 --set decoder=greedy; a fixed key is no longer searched.
Use --search to search any key, for instance --search lr=1e-5..1e-2:log --search weight_decay=0,0.01,0.1 --search epochs=2..8.
`gpt2-search keys` lists all keys. Results are in STORAGE/searches/NAME/: report.html, summary.json, ledger.jsonl, trials/
(checkpoints) and best/ (a model folder).
"""

LEAST, MOST_SEEDS = 3, 8  # of `--until decided`: seeds at its first look, and its default for `--replicates`
WEB = ("http://", "https://")  # how an address that `--notify` can POST to begins
LONGEST_NAME = 100  # characters of a search's name


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


class SearchParser(Parser):
    """A parser of flags of a search. In the error for an unknown flag, it says how to give a key of the runs (`keys`)."""

    def __init__(self, *, keys: Callable[[], Collection[str]] = tuple, **options: Any) -> None:
        super().__init__(**options)
        self.keys = keys  # they take seconds to import

    def hint(self, flag: str, value: str) -> str:
        """Return what to write in place of an unknown flag: --set and --search for a key."""
        key = flag.removeprefix("--").replace("-", "_")
        if key not in self.keys():
            return super().hint(flag, value)
        setting = f"{key}={'VALUE' if value.startswith('--') or not value else value}"
        search = f", or --search {key}=VALUES to search it" if is_searchable(key) else ""
        return f"`{key}` is a key of the runs, so use {shlex.join(['--set', setting])} to fix it{search}"


def parser(name: str, question: str, profiles: Sequence[str], program: str | None = None) -> Parser:
    """Return the parser of a search. `program` is how it is called, by default its script."""
    first = profiles[0]
    p = SearchParser(
        keys=_keys,
        prog=program or f"searches/{name}.py",
        description=question,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--profile", default=first, help=f"size of the search: {' or '.join(profiles)} (default: {first})")
    p.add_argument("--plan", action="store_true", help="print what would run and what it would take; start nothing")
    output_flags(p)
    p.add_argument("--smoke", action="store_true", help="end-to-end check on a tiny subset; scores mean nothing")
    add_import(p)
    _question(p.add_argument_group("question"))
    method_flags(p.add_argument_group("search method"))
    comparison = p.add_argument_group("final comparison")
    comparison_flags(comparison)
    _text_flags(comparison)
    resources = p.add_argument_group("resources and budget")
    resource_flags(resources)
    _training_flags(resources)
    result_flags(p.add_argument_group("results"), f"{name}-PROFILE")
    return p


def output_flags(p: Parser) -> None:
    """Add the flags that choose how results are printed, which belong to no search."""
    words = "print the results, or with --plan the plan, as JSON; progress goes to stderr"
    p.add_argument("--json", action="store_true", help=words)
    p.add_argument("--wide", action="store_true", help="show all columns of tables, also on a narrow terminal")


def typed_flags(argv: Sequence[str] | None) -> list[str]:
    """Return the flags that state a search, as they were typed: without those of `output_flags`."""
    return [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("--json", "--wide")]


def _question(p: Group) -> None:
    p.add_argument("--model", help=meaning("model"))
    p.add_argument("--data-dir", help=meaning("data_dir"))
    for flag in OWN_FLAGS:
        p.add_argument(
            f"--{flag}", metavar="COLUMN" if flag in ("text", "label", "target") else "DATA", help=meaning(flag)
        )
    p.add_argument("--seed", type=int, default=11711, help="random seed (default: 11711, the study's)")
    words = "fix a key of every run; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=words)
    words = (
        "search a key: LOW..HIGH, with :log for a log scale and :int for whole numbers, or values separated by commas; adds the "
        "key or replaces its values; may be repeated"
    )
    p.add_argument("--search", action="append", default=[], metavar="KEY=VALUES", help=words)
    p.add_argument("--objective", metavar="METRIC", help="metric to optimize (default: the task's own)")


def method_flags(p: Group) -> None:
    """Add the flags of the search method."""
    words = "number of trials, rounded up to equal numbers for the values of the factor (default: the profile's)"
    p.add_argument("--trials", type=int, metavar="N", help=words)
    words = "try the best points of an earlier search in the storage first, also one of another model; may be repeated"
    p.add_argument("--warm-start", action="append", default=[], metavar="NAME", help=words)
    words = "propose a trial without waiting for the N trials before it, so that up to N + 1 run at once (default: 8)"
    p.add_argument("--ahead", type=int, metavar="N", help=words)
    words = f"search algorithm: {', '.join(SAMPLERS)} (default: {DEFAULT.sampler}). {_keys_of(SAMPLERS)}"
    p.add_argument("--sampler", default=DEFAULT.sampler, help=words)
    words = f"early-stopping rule: {', '.join(SCHEDULERS)} (default: {DEFAULT.scheduler}). {_keys_of(SCHEDULERS)}"
    p.add_argument("--scheduler", default=DEFAULT.scheduler, help=words)
    words = "first epoch at which a trial may be stopped early (default: a third of its epochs)"
    p.add_argument("--grace", type=int, metavar="EPOCHS", help=words)
    words = "stop a trial whose score has not improved for EPOCHS epochs"
    p.add_argument("--plateau", type=int, metavar="EPOCHS", help=words)
    words = f"a further objective: {', '.join(COSTS)}; may be repeated"
    p.add_argument("--minimize", action="append", default=[], metavar="COST", help=words)
    words = "a limit that the winner must respect, such as memory_gb<=8; may be repeated"
    p.add_argument("--constraint", action="append", default=[], metavar="LIMIT", help=words)


def comparison_flags(p: Group) -> None:
    """Add the flags of the final comparison that all programs have."""
    p.add_argument(
        "--confirm",
        metavar="each|N",
        help="settings to rerun on fresh seeds: the best trial of each value of the factor, or the best N trials and the "
        "reference (default: each if there is a factor, else 1)",
    )
    words = "fresh seeds per setting; with --until decided, the maximum (default then: 8)"
    p.add_argument("--replicates", type=int, metavar="N", help=words)
    p.add_argument(
        "--until",
        metavar="decided|seeds:N",
        help="decided: add seeds until the question is decided, from 3 to --replicates, with error rates corrected for repeated "
        "looks; seeds:N: compare once, after N seeds (default: once, after --replicates seeds)",
    )
    words = "differences below D do not matter (default: the metric's margin)"
    p.add_argument("--margin", type=float, metavar="D", help=words)


def _text_flags(p: Group) -> None:
    p.add_argument(
        "--confirm-on",
        default="dev",
        choices=("dev", "test"),
        help="texts for the final comparison. dev: the half of dev that the search has not seen, or folds of the training texts "
        "if dev is small; test: the test split, once (default: dev)",
    )
    p.add_argument("--final-test", action="store_true", help="score the finalists on the test split at the end, once")
    words = "score each trial by K-fold cross-validation over the training texts"
    p.add_argument("--folds", type=int, default=1, metavar="K", help=words)


def _training_flags(p: Group) -> None:
    p.add_argument(
        "--pack",
        default="auto",
        metavar="auto|off|K",
        help="trials per process; LoRA trials in a process share each forward pass. auto: 4 if trials only decode or if all are "
        "LoRA trials on GPUs, else off (default: auto)",
    )
    add_checkpoint_minutes(p)
    words = "write a profiler trace of a few steps of each trial to trace.json.gz, next to its checkpoints"
    p.add_argument("--trace", action="store_true", help=words)
    words = "data-parallel workers per trial (default: 1)"
    p.add_argument("--workers-per-trial", type=int, default=1, metavar="N", help=words)


def resource_flags(p: Group) -> None:
    """Add the flags of resources and budget that all programs have."""
    p.add_argument("--max-concurrent", type=int, metavar="N", help="maximum trials at once (default: as many as fit)")
    words = "GPUs per worker (default: 1, or a fraction if several trials fit on a GPU; 0 without GPUs)"
    p.add_argument("--gpus-per-worker", type=float, metavar="N", help=words)
    p.add_argument("--budget-hours", type=float, metavar="H", help="stop and report after H hours of wall-clock time")
    p.add_argument("--budget-gpu-hours", type=float, metavar="H", help="stop and report after H GPU-hours of trials")
    words = "stop and report when this amount is spent; needs --usd-per-gpu-hour"
    p.add_argument("--budget-usd", type=float, metavar="USD", help=words)
    p.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="price of a GPU-hour, for forecast and budget")


def result_flags(p: Group, name: str) -> None:
    """Add the flags of the results; `name` describes the search's default name."""
    words = f"name of the search; an existing search of that name is resumed (default: {name})"
    p.add_argument("--name", help=words)
    p.add_argument(
        "--storage",
        help="folder that all nodes share, or s3://BUCKET/FOLDER or gs://BUCKET/FOLDER "
        "(default: $GPT2_SEARCH_STORAGE, ./runs, or in a Ray job ~/gpt2-search/runs)",
    )
    words = "when the search ends: POST its answer as JSON to a URL, or give it to a command on standard input"
    p.add_argument("--notify", metavar="URL|COMMAND", help=words)
    words = "MLflow server or sqlite:////path.db (default: $MLFLOW_TRACKING_URI, or mlflow.db in the storage)"
    p.add_argument("--tracking-uri", help=words)
    p.add_argument(
        "--resume",
        default="auto",
        choices=("auto", "never", "must"),
        help="auto: resume an earlier search of that name if there is one; never: fail if there is one; must: fail if there is "
        "none (default: auto)",
    )


def without(argv: Sequence[str], *flags: str) -> list[str]:
    """Return `argv` without the given flags and their values."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.split("=")[0] not in flags:
            kept.append(word)
    return kept


def storage_path(storage: str | None) -> Path:
    """Return the local folder of a `--storage` value; raise ConfigError for an invalid address."""
    from cluster.connect import default_storage

    return default_storage() if storage is None else local(storage)


def existing_storage(storage: str | None) -> Path:
    """Return the local folder of a `--storage` value; raise UserError if it does not exist, unless it is an address."""
    folder = storage_path(storage)
    if not (folder.is_dir() or is_copy(folder)):
        raise UserError(f"There is no folder {folder} with searches; give the --storage of the searches")
    return folder


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


def _keys() -> Collection[str]:
    """Return the keys of runs, samplers and schedulers."""
    import gpt2core.identity  # noqa: F401  # registers the components and their keys; too slow for --help

    return known_keys().keys() | declared_keys("sampler", "scheduler").keys()


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


def _keys_of(table: Table[Any]) -> str:
    """Describe the keys that a table's entries read, for `--help`."""
    fields = {name: keys.model_fields[name] for name, keys in declared_keys(table.kind).items()}
    return "; ".join(
        f"{', '.join(table.readers(name))}: --set {name}=N, {field.description} (default: {field.default})"
        for name, field in fields.items()
    )


def search_name(name: str, given_as: str = "name of the search") -> str:
    """Return the name if it is safe as a folder name; raise ConfigError otherwise, with what the name is `given_as`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... of {len(name)} characters"
        raise ConfigError(
            f"The {given_as} is {shown!r}, but must be letters, digits, dots, dashes and underscores, starting with a "
            f"letter or digit, and at most {LONGEST_NAME} characters"
        )
    return name


def default_name(script: str, data: str, profile: str) -> str:
    """Return the name of a search that is given none; `data` is the name of the user's own data, empty without."""
    words = re.findall(r"[A-Za-z0-9]+", data)
    return "-".join([script, *(["_".join(words)[:30]] if words else []), profile])


def search_folder(storage: str | None, name: str, given_as: str = "name of the search") -> Path:
    """Return the results folder of an existing search; raise UserError if there is none of that name."""
    name = search_name(name, given_as)
    searches = existing_storage(storage) / SEARCHES
    folder = searches / name
    refresh(folder)
    if not (folder / LEDGER).is_file():
        existing = folders(searches)
        hint = nearest(name, existing) if existing else "it has no searches"
        raise UserError(f"There is no search `{name}` in {address(searches)}: {hint}; see --storage")
    return folder


def trial_folder(search: Path, name: str) -> Path:
    """Return a trial's checkpoint folder, with its best weights fetched; raise UserError if it is missing."""
    folder = search / TRIALS / name
    fetch(folder / "best")
    if not folder.is_dir():
        raise UserError(
            f"{address(folder)}: the folder with the weights of trial {name} is missing; restore it, or promote another trial: "
            f"gpt2-search promote {search.name} --trial NUMBER"
        )
    return folder


def parse_for_user(load: Callable[[], Search], argv: list[str]) -> Options:
    """Parse the flags that the user gave for the search that `load` returns, and import the modules that both name.

    The modules come first, since they register what the search and the other flags may name. Raises UserError.
    """
    import_modules(imports_of(argv))
    search = load()
    import_modules(search.imports)
    return parse(search, argv)


def imports_of(argv: list[str]) -> list[str]:
    """Return the modules of --import."""
    p = Parser(add_help=False, forwards=True)
    add_import(p)
    modules: list[str] = p.parse_known_args(argv)[0].imports
    return modules


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


def parse(search: Search, argv: list[str] | None = None) -> Options:
    """Parse and validate the flags. It imports nothing, as they may come from a ledger. Raises ConfigError, UnknownNameError."""
    o = parser(search.name, search.question, list(search.profiles), search.command).parse(argv)
    at_least(o, 1, "workers_per_trial", "max_concurrent", "trials", "plateau", "grace", "folds", "ahead")
    at_least(o, 0, "replicates", "gpus_per_worker", "checkpoint_minutes")
    imports = list(dict.fromkeys([*search.imports, *o.imports]))
    require(imports)

    from gpt2core.data.tables import is_on_hub
    from gpt2core.tasks.own import with_task

    fixed = settings(o.set, _keys())
    form = "KEY=VALUES, such as lr=1e-5..1e-2:log"
    domains = {key: domain_of(key, text) for key, text in key_values("--search", form, o.search, known_keys()).items()}
    method_keys = method_settings(fixed, o.sampler, o.scheduler)
    direct = {key: value for key in ("data_dir", *OWN_FLAGS) if (value := getattr(o, key)) is not None}
    for key in sorted(direct.keys() & fixed.keys()):
        raise ConfigError(
            f"The key `{key}` is given by `--set` and by `--{key.replace('_', '-')}`, but must be given once"
        )
    fixed |= direct
    places = {key: fixed[key] for key in keys_that_decide("place") if fixed.get(key)}
    fixed |= {key: place if is_on_hub(place) else absolute(place) for key, place in places.items()}
    fixed, own = with_task(fixed), fixed.get("train") or ""
    if own:
        search = on_own_data(search, fixed["task"], own if is_on_hub(own) else PurePath(own).name)
    usual = default_name(search.name, PurePath(own).stem, "smoke" if o.smoke else o.profile)
    name = search_name(usual if o.name is None else o.name, "value of `--name`")
    if search.learns_from_pairs:
        fixed = {"pairs": address(storage_path(o.storage) / SEARCHES / name / CANDIDATES)} | fixed
    method = method_of(o, method_keys, search.constraints)
    each = o.confirm == "each"
    comparing = Comparing(objective=o.objective, margin=o.margin, each=each, on=o.confirm_on, folds=o.folds)
    until_decided, replicates = until(o.until, o.replicates)
    plan = make_plan(
        search,
        o.profile,
        method=method,
        comparing=comparing,
        smoke=o.smoke,
        settings=fixed,
        domains=domains,
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
        check_settings(plan, [pair.partition("=")[0] for pair in o.set])
    return Options(
        plan=with_warm_start(plan, o, name, search.warm_start),
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
