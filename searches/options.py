"""The flags, the same for every search. This file imports nothing heavy: `--help` answers at once."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2core.cli import Parser, Part, absolute, absolute_model, at_least, settings
from gpt2core.component import Table, declared_keys, nearest
from gpt2core.config import keys_that_decide, known_keys, meaning
from gpt2core.errors import ConfigError, UserError
from gpt2core.storage import address, fetch, folders, local
from searches.deciding.comparing import Comparing
from searches.deciding.method import COSTS, DEFAULT, Method, limit, objectives
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.question import Plan, Search, make_plan
from searches.running.budget import Budget
from searches.running.remote_ledger import refresh

EPILOG = """\
Any key of a run can be fixed with --set, for instance --set epochs=5 --set decoder=greedy; `python -m gpt2core keys` lists them.
A key that is searched is then searched no more. The results are in <storage>/searches/<name>/: ledger.jsonl, summary.json,
checkpoints, best/ (a model folder).
"""

LEAST, MOST_SEEDS = 3, 8  # seeds that `--until decided` runs, at most where nothing else is said
LONGEST_NAME = 100  # characters of a search's name
CANDIDATES = "candidates"  # the folder, among the results of a search, of the pairs that it generates


@dataclass(frozen=True, kw_only=True)
class Options:
    """A search's flags, parsed and validated into a plan."""

    plan: Plan
    name: str
    storage: str | None
    tracking_uri: str | None
    max_concurrent: int | None
    workers_per_trial: int
    gpus_per_worker: float | None
    pack: str
    trace: bool
    resume: str
    plan_only: bool
    final_test: bool
    budget: Budget
    argv: list[str]

    @property
    def storage_folder(self) -> Path:
        """The folder of all results, on this machine; raise ConfigError for an address that cannot be used."""
        return storage_path(self.storage)

    @property
    def results_folder(self) -> Path:
        """The folder of this search's results; raise ConfigError as `storage_folder`."""
        return self.storage_folder / "searches" / self.name

    @property
    def scores_test(self) -> bool:
        """Whether the test split is scored at the end, to judge or beside what judges."""
        return self.final_test or self.plan.comparing.on == "test"


def parser(name: str, question: str, profiles: Sequence[str]) -> Parser:
    """Return the parser of a script in searches/."""
    first = profiles[0]
    p = Parser(
        prog=f"searches/{name}.py",
        description=question,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--profile", default=first, help=f"size of the search: {' or '.join(profiles)} (default: {first})")
    p.add_argument("--plan", action="store_true", help="time a few steps, print what would run and take; start nothing")
    p.add_argument("--smoke", action="store_true", help="end-to-end check on a tiny subset; scores mean nothing")
    _question(p.add_part("what is searched"))
    _method(p.add_part("how it is searched"))
    _comparison(p.add_part("how settings are compared"))
    _resources(p.add_part("what it may take"))
    _results(p.add_part("where it is kept"), name)
    return p


def _question(p: Part) -> None:
    p.add_argument("--model", help=meaning("model"))
    p.add_argument("--data-dir", help=meaning("data_dir"))
    p.add_argument("--seed", type=int, default=11711, help="seed of everything (default: 11711, the study's)")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="fix a value of every run; may be repeated"
    )
    p.add_argument("--objective", metavar="METRIC", help="metric of the task that decides (default: the task's own)")


def _method(p: Part) -> None:
    p.add_argument(
        "--trials", type=int, help="configurations to try; with a factor, rounded up to as many for each of its values"
    )
    p.add_argument(
        "--ahead",
        type=int,
        metavar="N",
        help="a proposal does not wait for the last N trials before it, so at most N + 1 run at once (default: 8)",
    )
    p.add_argument("--final-test", action="store_true", help="at the end, score the finalists on the test split: once")
    samplers, schedulers = (", ".join(table) for table in (SAMPLERS, SCHEDULERS))
    p.add_argument(
        "--sampler",
        default=DEFAULT.sampler,
        help=f"search algorithm: {samplers} (default: {DEFAULT.sampler}). {_keys_of(SAMPLERS)}",
    )
    p.add_argument(
        "--scheduler",
        default=DEFAULT.scheduler,
        help=f"early stopping: {schedulers} (default: {DEFAULT.scheduler}). {_keys_of(SCHEDULERS)}",
    )
    p.add_argument(
        "--grace",
        type=int,
        metavar="EPOCHS",
        help="first epoch at which a trial may be stopped (default: a third of its epochs)",
    )
    p.add_argument("--plateau", type=int, metavar="EPOCHS", help="end a trial that was no better for so many epochs")
    for flag, metavar, words in (
        ("--minimize", "COST", f"a further objective: {', '.join(COSTS)}; may be repeated"),
        ("--constraint", "LIMIT", "what the winner must keep, such as memory_gb<=8; may be repeated"),
    ):
        p.add_argument(flag, action="append", default=[], metavar=metavar, help=words)


def _comparison(p: Part) -> None:
    p.add_argument(
        "--confirm",
        metavar="each|N",
        help="settings that run again on fresh seeds: the best of each value of the factor, or the best N trials and the "
        "reference (default: each where there is a factor, else 1)",
    )
    p.add_argument(
        "--replicates", type=int, metavar="N", help="fresh seeds; with --until decided, at most (default: 8)"
    )
    p.add_argument(
        "--until",
        metavar="decided|seeds:N",
        help="add seeds until the question is decided, from 3 to --replicates, at levels that allow for looking again; or "
        "compare once after N seeds (default: once)",
    )
    p.add_argument(
        "--margin", type=float, metavar="D", help="a difference that does not matter (default: the metric's)"
    )
    p.add_argument(
        "--confirm-on",
        default="dev",
        choices=("dev", "test"),
        help="texts that judge: those of dev that chose nothing (of a small dev split: folds of the training texts), or the "
        "test split, once (default: dev)",
    )
    p.add_argument(
        "--folds",
        type=int,
        default=1,
        metavar="K",
        help="score each trial by K-fold cross-validation over the training texts",
    )


def _resources(p: Part) -> None:
    p.add_argument("--max-concurrent", type=int, help="trials at once (default: what the resources allow)")
    p.add_argument(
        "--pack",
        default="auto",
        metavar="auto|off|K",
        help="trials that share a process, and LoRA a forward pass (auto: 4 where nothing trains, or LoRA on GPUs; else off)",
    )
    p.add_argument(
        "--trace",
        action="store_true",
        help="write a trace of some steps of each trial, trace.json.gz beside its checkpoints",
    )
    p.add_argument("--workers-per-trial", type=int, default=1, help="data-parallel workers of a trial (default: 1)")
    p.add_argument(
        "--gpus-per-worker",
        type=float,
        help="GPUs of a worker (default: 1 where there are GPUs, or as little of one as its memory allows; else 0)",
    )
    p.add_argument("--budget-hours", type=float, help="hours of wall clock after which all is stopped and reported")
    p.add_argument("--budget-gpu-hours", type=float, help="the same in GPU-hours of trials; without GPUs it spends 0")
    p.add_argument("--budget-usd", type=float, help="the same in money, at --usd-per-gpu-hour")
    p.add_argument("--usd-per-gpu-hour", type=float, help="price of a GPU for an hour, for forecast and budget")


def _results(p: Part, name: str) -> None:
    p.add_argument("--name", help=f"name of the search; the same name goes on with it (default: {name}-PROFILE)")
    p.add_argument(
        "--storage",
        help="folder that all nodes share, or s3://BUCKET/FOLDER "
        "(default: $GPT2_SEARCH_STORAGE, ./runs, or in a job ~/gpt2-search/runs)",
    )
    p.add_argument(
        "--tracking-uri",
        help="MLflow server or sqlite:////path.db (default: $MLFLOW_TRACKING_URI; mlflow.db in the storage)",
    )
    p.add_argument(
        "--resume",
        default="auto",
        choices=("auto", "never", "must"),
        help="go on with an earlier search of that name: if there is one (auto), never, or fail if there is none (must)",
    )


def without(argv: Sequence[str], *flags: str) -> list[str]:
    """Return `argv` without some flags and their values."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.split("=")[0] not in flags:
            kept.append(word)
    return kept


def storage_path(storage: str | None) -> Path:
    """The folder that `--storage` means, on this machine; raise ConfigError for an address that cannot be used."""
    from cluster.connect import default_storage

    return default_storage() if storage is None else local(storage)


def pack(text: str) -> str:
    """Return `auto`, `off` or a number of at least 2; raise ConfigError for anything else."""
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) > 1):
        raise ConfigError(f"The value of `--pack` is {text!r}, but must be auto, off, or a number >= 2")
    return text


def confirm(text: str | None) -> int | None:
    """Return how many of the best trials are compared; None for `each` or nothing; raise ConfigError for anything else."""
    if text in (None, "each"):
        return None
    if not (text.isdecimal() and int(text)):
        raise ConfigError(f"The value of `--confirm` is {text!r}, but must be each, or a number >= 1")
    return int(text)


def until(text: str | None, seeds: int | None) -> tuple[bool | None, int | None]:
    """Return whether seeds are added until the question is decided, and how many there are at most; None as the profile has it.

    Raises ConfigError.
    """
    if text is None:
        return None, seeds
    if text == "decided":
        if seeds is not None and seeds < LEAST:
            raise ConfigError(f"`--until decided` looks first after {LEAST} seeds, but `--replicates` is {seeds}")
        return True, MOST_SEEDS if seeds is None else seeds
    number = text.removeprefix("seeds:")
    if not (text.startswith("seeds:") and number.isdecimal() and int(number)):
        raise ConfigError(f"The value of `--until` is {text!r}, but must be decided, or seeds:N with N >= 1")
    if seeds is not None and seeds != int(number):
        raise ConfigError(f"`--until {text}` and `--replicates {seeds}` say two things; leave one of them out")
    return False, int(number)


def method_settings(given: dict[str, Any], sampler: str, scheduler: str) -> dict[str, Any]:
    """Take the keys of sampler and scheduler out of the values of `--set`; return those that are not at their default.

    Raises UnknownNameError for a sampler or a scheduler that there is not, ConfigError for a key that neither reads.
    """
    chosen = (SAMPLERS[sampler], SCHEDULERS[scheduler])
    keys = {name: entry.keys for entry in chosen for name in entry.keys.model_fields}
    changed: dict[str, Any] = {}
    for name in given.keys() & declared_keys("sampler", "scheduler").keys():
        if name not in keys:
            readers = [*SAMPLERS.readers(name), *SCHEDULERS.readers(name)]
            raise ConfigError(
                f"The key `{name}` is read by {', '.join(readers)} alone, not by {sampler} and {scheduler}"
            )
        value = getattr(keys[name].of({name: given.pop(name)}), name)
        changed |= {name: value} if value != keys[name].model_fields[name].default else {}
    return changed


def _keys_of(table: Table[Any]) -> str:
    """The keys of a table's entries in words, for `--help`."""
    keys = declared_keys(table.kind)
    return "; ".join(
        f"{', '.join(table.readers(name))}: --set {name}=N, {field.description} (default: {field.default})"
        for name, field in ((name, keys[name].model_fields[name]) for name in keys)
    )


def search_name(name: str) -> str:
    """Return a name that cannot leave its folder; raise ConfigError for any other."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... of {len(name)} characters"
        raise ConfigError(
            f"The value of `--name` is {shown!r}, but must be letters, digits, dots, dashes and underscores, a letter or a digit "
            f"first, and at most {LONGEST_NAME} of them"
        )
    return name


def search_folder(storage: str | None, name: str) -> Path:
    """The results of a search that is there; raise UserError where there is none of that name."""
    searches = storage_path(storage) / "searches"
    folder = searches / search_name(name)
    refresh(folder)
    if not (folder / "ledger.jsonl").is_file():
        there = folders(searches)
        hint = nearest(name, there) if there else "there is none"
        raise UserError(f"There is no search `{name}` in {address(searches)}: {hint}; see --storage")
    return folder


def trial_folder(search: Path, name: str) -> Path:
    """The checkpoints of a trial, with its best weights; raise UserError where its folder is gone."""
    folder = search / "trials" / name
    fetch(folder / "best")
    if not folder.is_dir():
        raise UserError(
            f"{address(folder)}: the folder of trial {name} is gone, and its weights with it; put it back, or take another "
            f"trial: python -m searches promote {search.name} --trial NUMBER"
        )
    return folder


def parse(search: Search, argv: list[str] | None = None) -> Options:
    """Parse and validate the flags; raise ConfigError or UnknownNameError."""
    o = parser(search.name, search.question, list(search.profiles)).parse(argv)
    at_least(o, 1, "workers_per_trial", "max_concurrent", "trials", "plateau", "grace", "folds", "ahead")
    at_least(o, 0, "replicates", "gpus_per_worker")

    import gpt2core.identity  # noqa: F401  # the tables, whose entries declare keys: not for --help

    fixed = settings(o.set, known_keys().keys() | declared_keys("sampler", "scheduler").keys())
    of_method = method_settings(fixed, o.sampler, o.scheduler)
    fixed |= {"data_dir": o.data_dir} if o.data_dir else {}
    fixed |= {key: absolute(fixed[key]) for key in keys_that_decide("place") if fixed.get(key)}
    name = search_name(o.name or f"{search.name}-{'smoke' if o.smoke else o.profile}")
    if search.learns_from_pairs:
        fixed = {"pairs": address(storage_path(o.storage) / "searches" / name / CANDIDATES)} | fixed
    method = Method(
        sampler=o.sampler,
        scheduler=o.scheduler,
        minimize=objectives(o.minimize),
        limits=tuple(map(limit, o.constraint or search.constraints)),
        plateau=o.plateau,
        settings=of_method,
    )
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
        seed=o.seed,
        model=absolute_model(o.model) if o.model else None,
        trials=o.trials,
        replicates=replicates,
        confirm=confirm(o.confirm),
        until_decided=until_decided,
        grace=o.grace,
        ahead=o.ahead,
    )
    return Options(
        plan=plan,
        name=name,
        storage=o.storage,
        tracking_uri=o.tracking_uri,
        max_concurrent=o.max_concurrent,
        workers_per_trial=o.workers_per_trial,
        gpus_per_worker=o.gpus_per_worker,
        pack=pack(o.pack),
        trace=o.trace,
        resume=o.resume,
        plan_only=o.plan,
        final_test=o.final_test,
        budget=Budget(
            hours=o.budget_hours,
            gpu_hours=o.budget_gpu_hours,
            usd=o.budget_usd,
            usd_per_gpu_hour=o.usd_per_gpu_hour,
        ),
        argv=list(sys.argv[1:] if argv is None else argv),
    )
