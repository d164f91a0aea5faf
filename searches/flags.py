"""The flags that all searches share. This file imports nothing heavy, so `--help` answers at once."""

import argparse
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from gpt2core.cli import Group, Parser, add_checkpoint_minutes, add_import
from gpt2core.component import Table, declared_keys
from gpt2core.config import OWN_FLAGS, known_keys, meaning
from searches.deciding.method import COSTS, DEFAULT
from searches.deciding.samplers import SAMPLERS
from searches.deciding.stopping import SCHEDULERS
from searches.values import is_searchable

EPILOG = """\
Use --set to fix any key of a run, for instance --set epochs=5
--set decoder=greedy; a fixed key is no longer searched. Use --search to search
any key, for instance --search lr=1e-5..1e-2:log --search epochs=2..8
--search weight_decay=0,0.01,0.1. `gpt2-search keys` lists all keys.

Results are in STORAGE/searches/NAME/: report.html, summary.json, ledger.jsonl,
trials/ (checkpoints) and best/ (a model folder).
"""


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
        keys=run_keys,
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


def imports_of(argv: list[str]) -> list[str]:
    """Return the modules of --import."""
    p = Parser(add_help=False, forwards=True)
    add_import(p)
    modules: list[str] = p.parse_known_args(argv)[0].imports
    return modules


def run_keys() -> Collection[str]:
    """Return the keys of runs, samplers and schedulers."""
    import gpt2core.identity  # noqa: F401  # registers the components and their keys; too slow for --help

    return known_keys().keys() | declared_keys("sampler", "scheduler").keys()


def _keys_of(table: Table[Any]) -> str:
    """Describe the keys that a table's entries read, for `--help`."""
    fields = {name: keys.model_fields[name] for name, keys in declared_keys(table.kind).items()}
    return "; ".join(
        f"{', '.join(table.readers(name))}: --set {name}=N, {field.description} (default: {field.default})"
        for name, field in fields.items()
    )
