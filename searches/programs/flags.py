"""The flags of `searches/command.py`, and the search that they state."""

import argparse
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from gpt2core.cli import Group, Parser, add_import, at_least, key_values
from gpt2core.component import declared_keys, nearest
from gpt2core.config import OWN_FLAGS
from gpt2core.errors import ConfigError
from gpt2core.metrics.direction import Direction
from gpt2core.naming import words
from gpt2core.parts import require
from searches.deciding.comparing import Comparing
from searches.deciding.method import Method
from searches.domains import Choice, Domain
from searches.flags import (
    SearchParser,
    comparison_flags,
    method_flags,
    output_flags,
    resource_flags,
    result_flags,
    typed_flags,
)
from searches.options import Options, budget_of, confirm, method_of, method_settings, receiver, until, with_warm_start
from searches.places import search_name
from searches.plan import MOST_LEVELS, Plan
from searches.question import Case, Profile, Search, script_command
from searches.values import described
from trainables.programs.readings import line_pattern
from trainables.programs.run import GIVEN, NO_PLACEHOLDER, Program, Value, placeholders

NAME = "command"  # of the script, and the first word of a search's name
TASK = "program"  # stands for the task, for instance as MLflow's experiment
EPILOG = """\
Example: --command "python train.py --lr {lr} --epochs {epochs} --seed {seed}"
--metric dev_acc --search lr=1e-5..1e-2:log --set epochs=5

Placeholders are searched or fixed keys, {seed}, {out} (the run's own folder,
in which it starts), and {checkpoint} in --resume-flag. No shell is used. If
--set or --search gives `epochs`, each value of the metric is the report of an
epoch, after which a trial may be stopped; else a trial has one report, its
best value. Results are in STORAGE/searches/NAME/; trials/ has the folder and
output of each run.
"""
LOWER_IS_BETTER = ("loss", "error", "perplexity")  # parts of the names of metrics that are minimised by default
TRIALS, REPLICATES = 12, 3
MEASURED = "seconds"  # the cost that is known of a program


class ProgramParser(SearchParser):
    """A parser whose error for a flag about models or data says that these belong to the program."""

    def hint(self, flag: str, value: str) -> str:
        """Return what to write in place of an unknown flag."""
        key = flag.removeprefix("--").replace("-", "_")
        if key in {"model", "data_dir", *OWN_FLAGS} - {*self.keys()}:
            return (
                "the program chooses its model and reads its data itself: name them in --command; a folder needs --link"
            )
        return super().hint(flag, value)


def parser(argv: Sequence[str], program: str) -> Parser:
    """Return the parser of searches with a program; `program` is how it is called. It knows the keys of the command in `argv`."""
    p = ProgramParser(
        keys=lambda: {*placeholders(" ".join(argv)), "epochs"},
        prog=program,
        description="Search the settings of any training program: each trial runs a command and reads its metric.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--plan", action="store_true", help="print what would run; start nothing")
    output_flags(p)
    add_import(p)
    _program_flags(p.add_argument_group("program"))
    _question_flags(p.add_argument_group("question"))
    method_flags(p.add_argument_group("search method"))
    comparison_flags(p.add_argument_group("final comparison"))
    resource_flags(p.add_argument_group("resources and budget"))
    result_flags(p.add_argument_group("results"), f"{NAME}-PROGRAM")
    return p


def _program_flags(p: Group) -> None:
    p.add_argument("--command", required=True, metavar="WORDS", help="the command, with {key} in place of values")
    p.add_argument("--metric", required=True, metavar="NAME", help="the metric, printed in lines such as NAME=0.5")
    words = f"whether a larger or a smaller metric is better (default: min for names with {', '.join(LOWER_IS_BETTER)}; else max)"
    p.add_argument("--mode", choices=tuple(Direction), help=words)
    words = "regular expression of the lines with the metric, with a group (?P<value>...) and perhaps (?P<epoch>...)"
    p.add_argument("--pattern", metavar="REGEX", help=words)
    words = "JSON file that the program writes into its folder: an object with the metric, or one per line with `epoch`"
    p.add_argument("--metrics-file", metavar="FILE", help=words)
    words = "words that resume from a checkpoint, such as '--resume {checkpoint}' (default: start again)"
    p.add_argument("--resume-flag", metavar="WORDS", help=words)
    words = "name of the checkpoint in the run's folder; the newest match of a pattern counts (default: checkpoint*)"
    p.add_argument("--checkpoint", default="checkpoint*", metavar="PATTERN", help=words)
    words = "file or folder to link into each run's folder, such as data; may be repeated"
    p.add_argument("--link", action="append", default=[], metavar="PATH", help=words)


def _question_flags(p: Group) -> None:
    words = (
        "search a key: LOW..HIGH, with :log for a log scale and :int for whole numbers, or values separated by commas; may be "
        "repeated"
    )
    p.add_argument("--search", action="append", default=[], metavar="KEY=VALUES", help=words)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="fix a key; may be repeated")
    words = "value of a searched key in trial 0 (default: the middle of the range, the first of the values); may be repeated"
    p.add_argument("--reference", action="append", default=[], metavar="KEY=VALUE", help=words)
    words = "compare the values of this key, each with its own best other settings (default: the best trials); may be repeated"
    p.add_argument("--factor", action="append", default=[], metavar="KEY", help=words)
    p.add_argument("--seed", type=int, default=11711, help="random seed of the search and of {seed} (default: 11711)")


def parse_program(argv: Sequence[str], file: str = "") -> Options:
    """Parse and validate the flags of a search with a program; `file` is the script. Raises ConfigError, UnknownNameError."""
    o = parser(argv, script_command(file or f"searches/{NAME}.py")).parse(argv)
    require(o.imports)
    at_least(o, 1, "max_concurrent", "trials", "plateau", "grace", "ahead")
    at_least(o, 0, "replicates", "gpus_per_worker", "seed")
    program = _program(o)
    keys = placeholders(f"{program.command} {program.resume_flag or ''}")
    if "task" in keys:
        raise ConfigError(
            "The command has {task}, but this name stands for the program: use another one, such as {task_name}"
        )
    method_keys = declared_keys("sampler", "scheduler").keys() - set(keys)
    _check_given("--set", o.set, keys, {*keys, "epochs", *method_keys})
    _check_given("--search", o.search, keys, keys)
    form = "KEY=VALUES, such as lr=1e-5..1e-2:log"
    fixed: dict[str, Any] = dict(key_values("--set", "KEY=VALUE", o.set, {*keys, "epochs", *method_keys}))
    settings = method_settings({key: fixed.pop(key) for key in fixed.keys() & method_keys}, o.sampler, o.scheduler)
    domains = {key: _domain(key, text) for key, text in key_values("--search", form, o.search, keys).items()}
    _check_keys(keys, fixed, domains)
    until_decided, replicates = until(o.until, o.replicates)
    replicates = REPLICATES if replicates is None else replicates
    if replicates and "seed" not in keys:
        raise ConfigError(
            "The command has no {seed}, so a run on a fresh seed would only repeat the first one: add it, as in --seed {seed}, "
            "or give --replicates 0"
        )
    profile = Profile(
        model="",
        trials=o.trials or TRIALS,
        replicates=replicates,
        confirm=confirm(o.confirm),
        until_decided=bool(until_decided),
        grace=o.grace,
        **({"ahead": o.ahead} if o.ahead else {}),
    )
    name = search_name(default_name(program) if o.name is None else o.name, "value of `--name`")
    plan = Plan(
        search=_search(o, program, domains, profile, file),
        profile=profile,
        fixed={"task": TASK, **{key: value_of(text) for key, text in fixed.items()}},
        seed=o.seed,
        method=_method(o, settings, program),
        comparing=Comparing(margin=o.margin, each=o.confirm == "each", on="program"),
        program=program,
    )
    return Options(
        plan=with_warm_start(plan, o, name),
        name=name,
        storage=o.storage,
        tracking_uri=o.tracking_uri,
        max_concurrent=o.max_concurrent,
        workers_per_trial=1,
        gpus_per_worker=o.gpus_per_worker,
        pack="off",
        checkpoint_minutes=0.0,
        trace=False,
        resume=o.resume,
        plan_only=o.plan,
        json=o.json,
        wide=o.wide,
        imports=o.imports,
        notify=receiver(o.notify),
        final_test=False,
        budget=budget_of(o),
        argv=typed_flags(argv),
    )


def _program(o: argparse.Namespace) -> Program:
    if not o.metric.strip():
        raise ConfigError("The value of `--metric` is '', but must be the name of the metric")
    for flag, text in (("--command", o.command), ("--resume-flag", o.resume_flag or "-")):
        if wrong := NO_PLACEHOLDER.search(text):
            raise ConfigError(
                f"The value of `{flag}` has {wrong[0]}, but a placeholder is {{KEY}}: letters, digits and _"
            )
        try:
            if not shlex.split(text):
                raise ConfigError(f"The value of `{flag}` is empty, but must be a command")
        except ValueError as error:
            raise ConfigError(f"The value of `{flag}` is {text!r}, but its quotes must match ({error})") from None
    if "checkpoint" in placeholders(o.command):
        raise ConfigError(
            "The command has {checkpoint}, but only a run that resumes has one: use --resume-flag '--resume {checkpoint}'; where "
            "a checkpoint is saved, write {out}/checkpoint"
        )
    if o.resume_flag is not None and "checkpoint" not in placeholders(o.resume_flag):
        raise ConfigError(f"The value of `--resume-flag` is {o.resume_flag!r}, but must have {{checkpoint}}")
    for flag, name in (("--metrics-file", o.metrics_file), ("--checkpoint", o.checkpoint)):
        if name is not None and (PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name):
            raise ConfigError(f"The value of `{flag}` is {name!r}, but must be a name in the run's own folder")
    if o.pattern is not None and o.metrics_file is not None:
        raise ConfigError("`--pattern` and `--metrics-file` contradict each other: the metric is read in one place")
    line_pattern(o.metric, o.pattern)
    lower = any(part in o.metric.lower() for part in LOWER_IS_BETTER)
    return Program(
        command=o.command,
        metric=o.metric,
        direction=Direction(o.mode or ("min" if lower else "max")),
        pattern=o.pattern,
        metrics_file=o.metrics_file,
        resume_flag=o.resume_flag,
        checkpoint=o.checkpoint,
        links=tuple(o.link),
        folder=str(Path.cwd()),
    )


def _check_given(flag: str, pairs: Sequence[str], keys: Collection[str], known: Collection[str]) -> None:
    """Raise ConfigError for a stated key that the search itself sets, or that is not `known` since it is not in the command."""
    for key, equals, _ in (pair.partition("=") for pair in pairs):
        if key in GIVEN:
            hint = "; use --seed" if key == "seed" else ""
            raise ConfigError(f"The key `{key}` cannot be given: it is {GIVEN[key]}{hint}")
        if equals and key not in known:
            others = set(keys) - GIVEN.keys()
            raise ConfigError(
                f"The command has no {{{key}}}, so `{flag} {key}` would change nothing: add it, as in --{key} {{{key}}}"
                + (f" ({nearest(key, others)})" if others else "")
            )


def _check_keys(keys: Collection[str], fixed: Collection[str], domains: Collection[str]) -> None:
    """Raise ConfigError unless each placeholder is given once, and something is searched."""
    for key in keys:
        if key not in {*GIVEN, *fixed, *domains}:
            known = {*GIVEN, *fixed, *domains}
            raise ConfigError(
                f"The command has {{{key}}}, but no flag gives its value: use --search {key}=VALUES or --set {key}=VALUE "
                f"({nearest(key, known)})"
            )
        if key in fixed and key in domains:
            raise ConfigError(
                f"Both `--set {key}` and `--search {key}` are given, but a key is either fixed or searched"
            )
    if not domains:
        raise ConfigError("Nothing is searched: give --search KEY=VALUES, and put {KEY} into the command")


def value_of(text: str) -> Value:
    """Return a value of a placeholder: none, a number, or text."""
    if text == "none":
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if abs(value) < float("inf") else text
    return text


def _domain(key: str, text: str) -> Domain:
    return described(key, text, value_of)


def _method(o: argparse.Namespace, settings: Mapping[str, Any], program: Program) -> Method:
    if o.scheduler == "pbt":
        raise ConfigError(
            "The value of `--scheduler` is 'pbt', but a program cannot go on from another trial: use asha"
        )
    for name in o.minimize or ():
        if name != MEASURED:
            raise ConfigError(f"The value of `--minimize` is {name!r}, but of a program only `{MEASURED}` is known")
    method = method_of(o, settings)
    for limit in method.limits:
        if limit.metric not in (MEASURED, program.metric):
            raise ConfigError(
                f"The value of `--constraint` is {str(limit)!r}, but must be about `{MEASURED}` or `{program.metric}`: nothing "
                "else is known of a program"
            )
    return method


def _search(
    o: argparse.Namespace, program: Program, domains: Mapping[str, Domain], profile: Profile, file: str
) -> Search:
    """Return the search that the flags state."""
    for key in o.factor:
        domain = domains.get(key)
        if domain is None:
            raise ConfigError(
                f"The value of `--factor` is {key!r}, but must be a searched key: {nearest(key, domains)}"
            )
        if not isinstance(domain, Choice) or len(domain.values) > MOST_LEVELS:
            raise ConfigError(
                f"The factor `{key}` is {domain}, but must have 2 to {MOST_LEVELS} values, as in {key}=A,B"
            )
    given = key_values("--reference", "KEY=VALUE", o.reference, domains)
    middle = {
        key: domain.values[0] if isinstance(domain, Choice) else domain.at(0.5) for key, domain in domains.items()
    }
    compared = o.factor or list(domains)
    about = f"Which settings of {program.name} have the best {words(program.metric)}?"
    if o.factor:
        about = f"Does {' and '.join(map(words, o.factor))} matter for the {words(program.metric)} of {program.name}?"
    return Search(
        name=NAME,
        question=about,
        tasks={TASK: Case()},
        factor=o.factor,
        scientific={key: domain for key, domain in domains.items() if key in compared},
        nuisance={key: domain for key, domain in domains.items() if key not in compared},
        fixed={},
        reference={**middle, **{key: value_of(text) for key, text in given.items()}},
        profiles={NAME: profile},
        file=file,
        definition={"command": program.command},
    )


def default_name(program: Program) -> str:
    """Return the name of a search that is given none."""
    parts = re.findall(r"[A-Za-z0-9]+", PurePath(program.name).stem)
    return "-".join([NAME, *(["_".join(parts)[:30]] if parts else [])])
