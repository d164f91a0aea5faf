"""What can so many seeds tell? Simulated searches are judged as real ones are: `python -m searches power --search lora_rank`.

Printed for each number of seeds: how often a search names a difference that is none, how often it finds one of the size asked
for, how often its intervals hold the truth, how often it rightly or wrongly says that settings are alike.
"""

import argparse
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gpt2core.cli import Group, Parser, at_least
from gpt2core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from gpt2core.metrics.metric import Metric
    from searches.deciding.decision import Design
    from searches.deciding.power_simulation import Case, Components, Rates
    from searches.question import Plan, Search

SEEDS, SIMULATIONS = "2,3,5,10", 2000
FEW = 500  # simulations of each number of seeds where it is looked for how many are needed
MOST = {"seeds": 200, "examples": 10**6, "outputs": 10**6, "trials": 10**4, "simulations": 10**6, "finalists": 20}
LARGEST = 1e100  # of a standard deviation: squares must be numbers
COMPONENTS = ("sd_run", "sd_example", "sd_interaction", "sd_output", "examples", "outputs")
#: What is assumed where nothing is known: standard deviations in units of the metric's margin.
ASSUMED = {"run": 0.5, "example": 2.0, "interaction": 2.0}
EXAMPLES = 100


def flags(p: Parser) -> None:
    """The flags of the command."""
    _question(p.add_argument_group("what is asked"))
    _components(p.add_argument_group("how scores differ, in units of the metric"))
    _search(p.add_argument_group("how a search goes"))
    p.add_argument("--simulations", type=int, default=SIMULATIONS, help=f"of each line (default: {SIMULATIONS:,})")
    p.add_argument("--seed", type=int, default=0, help="seed of the simulations (default: 0)")
    p.add_argument("--json", action="store_true", help="print one JSON object in place of tables")


def _question(p: Group) -> None:
    p.add_argument("--search", metavar="SCRIPT", help="a script of searches/, such as lora_rank")
    p.add_argument("--task", help="one of its tasks (default: its first)")
    p.add_argument("--objective", help="a metric of the task (default: the task's own)")
    p.add_argument("--effect", type=float, metavar="D", help="the difference to be found (default: the margin)")
    p.add_argument("--margin", type=float, metavar="M", help="less is practically none (default: the metric's)")
    p.add_argument("--seeds", help=f"fresh seeds of each finalist, one number or several (default: {SEEDS})")


def _components(p: Group) -> None:
    p.add_argument("--from", dest="name", metavar="NAME", help="estimate them from the replicates of a search")
    p.add_argument("--storage", help="where that search keeps its results (default: ./runs)")
    p.add_argument("--sd-run", type=float, help="between runs of one setting, the same on all examples")
    p.add_argument(
        "--sd-example",
        type=float,
        help="between examples, of the effect that an example has in one setting and not in the others",
    )
    p.add_argument("--sd-interaction", type=float, help="of one example in one run")
    p.add_argument("--sd-output", type=float, help="between outputs of one run for one example")
    p.add_argument("--examples", type=int, help=f"that a run is scored on (default: {EXAMPLES})")
    p.add_argument("--outputs", type=int, help="of a run for each example, whose mean counts (default: 1)")


def _search(p: Group) -> None:
    p.add_argument(
        "--finalists", type=int, metavar="K", help="settings compared (default: one of each scientific value)"
    )
    p.add_argument("--reference", action="store_true", help="compare each with a reference, not all in pairs")
    p.add_argument(
        "--looks", metavar="N,N,...", help="compare after so many seeds each, and stop as soon as it is decided"
    )
    p.add_argument("--until", choices=("decided",), help="a look after each seed from the third on, up to --seeds")
    p.add_argument(
        "--trials", type=int, default=1, metavar="T", help="settings tried of each value; the best of them is judged"
    )
    p.add_argument("--sd-setting", type=float, help="by how much their true scores differ (default: 0)")
    p.add_argument("--same-texts", action="store_true", help="judge on the texts that chose, which is a mistake")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is simulated, and what had to be assumed for it."""

    search: str
    task: str
    metric: "Metric"
    case: "Case"
    designs: "tuple[Design, ...]"
    effect: float
    components_from: str


def power(options: argparse.Namespace) -> int:
    """Simulate and print; return 0. Raises UserError."""
    asked = _asked(options)
    found = _simulated(asked, options)
    print(json.dumps(found, indent=2)) if options.json else _show(asked, found)
    return 0


def _asked(o: argparse.Namespace) -> Asked:
    _check(o)
    from searches.deciding.power_simulation import Case

    judged = _judged_by(o)
    margin = judged.metric.margin if o.margin is None else o.margin
    parts, origin = _of_components(o, margin, judged.recorded)
    designs = _designs(o)
    case = Case(
        components=parts,
        design=designs[0],
        margin=margin,
        finalists=judged.finalists if o.finalists is None else o.finalists,
        reference=o.reference or not judged.each,
        trials=o.trials,
        setting=o.sd_setting or 0.0,
        same_texts=o.same_texts,
    )
    effect = margin if o.effect is None else o.effect
    return Asked(
        search=judged.search.name,
        task=judged.task,
        metric=judged.metric,
        case=case,
        designs=designs,
        effect=effect,
        components_from=origin,
    )


def _check(o: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that are out of their range, and for flags that contradict each other."""
    at_least(o, 1, "simulations", "trials", "examples", "outputs")
    at_least(o, 1 if o.reference else 2, "finalists")
    at_least(o, 0, "seed")
    for name, most in MOST.items():
        value = getattr(o, name)
        if isinstance(value, int) and value > most:
            raise ConfigError(f"The value of `--{name}` is {value}, but must be <= {most}")
    for name in ("sd_run", "sd_example", "sd_interaction", "sd_output", "sd_setting", "effect", "margin"):
        value, positive = getattr(o, name), name in ("effect", "margin")
        if value is not None and not (value <= LARGEST and (value > 0 if positive else value >= 0)):
            rule = "a number > 0" if positive else "a number >= 0"
            raise ConfigError(
                f"The value of `--{name.replace('_', '-')}` is {value:g}, but must be {rule}, and <= {LARGEST:g}"
            )
    given = next((name for name in COMPONENTS if getattr(o, name) is not None), None)
    if o.name is not None and given is not None:
        raise ConfigError(f"Both --from and --{given.replace('_', '-')} say how scores differ; give one of them")
    if o.looks and (o.seeds or o.until):
        raise ConfigError(f"Both --looks and --{'seeds' if o.seeds else 'until'} say when to compare; give one of them")
    if o.name is None and o.search is None:
        raise ConfigError("It is not said what is searched: give --search SCRIPT, or --from NAME")


def _numbers(flag: str, text: str, least: int) -> tuple[int, ...]:
    """Growing numbers of seeds; raise ConfigError."""
    words = text.split(",")
    numbers = [int(word) for word in words if word.strip().isdecimal()]
    good = len(numbers) == len(words) and numbers == sorted(set(numbers)) and least <= numbers[0]
    if not good or numbers[-1] > MOST["seeds"]:
        raise ConfigError(
            f"The value of `--{flag}` is {text!r}, but must be numbers from {least} to {MOST['seeds']} that grow, such as {SEEDS}"
        )
    return tuple(numbers)


def _designs(o: argparse.Namespace) -> "tuple[Design, ...]":
    """When a search compares, for each line of the table."""
    from searches.deciding.decision import Design

    if o.looks:
        return (Design(looks=_numbers("looks", o.looks, 2)),)
    make = Design.until_decided if o.until else Design.fixed
    return tuple(make(seeds) for seeds in _numbers("seeds", o.seeds or SEEDS, 1))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A search, what it is judged by, the components of its recorded runs, and how many settings it compares: in all pairs, or
    each with a reference."""

    search: "Search"
    task: str
    metric: "Metric"
    finalists: int
    each: bool
    recorded: "tuple[Components, int] | None" = None


def _judged_by(o: argparse.Namespace) -> Judged:
    """What is to be judged; raise UserError."""
    from searches.question import make_plan, search_of

    if o.name is not None:
        return _recorded(o)
    search = search_of(o.search)
    settings = {} if o.task is None else {"task": o.task}
    return _of_plan(make_plan(search, next(iter(search.profiles)), settings=settings), o)


def _of_plan(plan: "Plan", o: argparse.Namespace, recorded: "tuple[Components, int] | None" = None) -> Judged:
    """What a plan compares, by its metric or another of its task."""
    from gpt2core.component import lookup

    finalists = plan.compared if plan.compares_each else plan.compared - 1
    return Judged(
        search=plan.search,
        task=plan.task,
        metric=lookup(plan.metrics, o.objective or plan.objective, "metric"),
        finalists=min(finalists, MOST["finalists"]),
        each=plan.compares_each,
        recorded=recorded,
    )


def _recorded(o: argparse.Namespace) -> Judged:
    """The same of a search that has run, by its ledger: of its replicates, as they were judged."""
    from gpt2core.component import lookup
    from searches.deciding.confirmation import judged, runs_of_metric
    from searches.deciding.power_simulation import components
    from searches.options import parse, search_folder
    from searches.question import search_of
    from searches.running.ledger import read_search

    state = read_search(search_folder(o.storage, o.name), needs_script=True)
    if o.search not in (None, state.script):
        raise ConfigError(f"The search `{o.name}` is of the script {state.script}, but --search is {o.search}")
    plan = parse(search_of(state.script), [*state.argv, "--name", o.name]).plan
    if o.task not in (None, plan.task):
        raise ConfigError(f"The search `{o.name}` is of the task {plan.task}, but --task is {o.task}")
    metric = lookup(plan.metrics, o.objective or plan.objective, "metric")
    names = dict.fromkeys(trial.of for trial in state.trials.values() if trial.of is not None)
    runs = [runs_of_metric(judged(plan, state, name, MOST["seeds"]), metric) for name in names]
    try:
        recorded = components([side for side in runs if side is not None])
    except ValueError:
        raise UserError(
            f"The search `{o.name}` has no setting with two or more replicates that are judged by {metric.name}; "
            "give --sd-run and others"
        ) from None
    return _of_plan(plan, o, recorded)


def _of_components(
    o: argparse.Namespace, margin: float, recorded: "tuple[Components, int] | None"
) -> "tuple[Components, str]":
    """The components, and in words where they are from."""
    from searches.deciding.power_simulation import Components

    if recorded is not None:
        parts, settings = recorded
        one = "; one setting alone says nothing of examples in a difference, so that is 0" if settings < 2 else ""
        return parts, f"estimated from the replicates of {settings} settings of {o.name}{one}"
    examples, outputs = o.examples or EXAMPLES, o.outputs or 1
    given = {name: getattr(o, f"sd_{name}") for name in ("run", "example", "interaction", "output")}
    if any(value is not None for value in given.values()):
        sds = {name: value or 0.0 for name, value in given.items()}
        if not any(sds.values()):
            raise ConfigError("Nothing differs by chance: all of --sd-run and others are 0, but one must be > 0")
        return Components(examples=examples, outputs=outputs, **sds), "as given, 0 where not"
    sds = {name: share * margin for name, share in ASSUMED.items()}
    return (
        Components(examples=examples, outputs=outputs, **sds),
        "ASSUMED in units of the margin, not measured; see --from and --sd-run",
    )


def _simulated(asked: Asked, o: argparse.Namespace) -> dict[str, Any]:
    """All that is printed, as plain values."""
    from rich.progress import Progress

    from gpt2core.console import PlainConsole
    from searches.deciding.decision import POWER, Design
    from searches.deciding.power_simulation import seeds_for_power, simulate

    console = PlainConsole(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulated searches", total=None)

        def rates(case: "Case") -> "Rates":
            return simulate(case, o.simulations, seed=o.seed, advance=lambda: progress.advance(bar))

        rows = []
        for design in asked.designs:
            case = replace(asked.case, design=design)
            none, effect = rates(case), rates(replace(case, effect=asked.effect))
            edge = effect if asked.effect == case.margin else rates(replace(case, effect=case.margin))
            rows.append(_row(design, none, effect, edge))
        few = min(o.simulations, FEW)

        @functools.cache
        def with_seeds(seeds: int) -> "Rates":
            case = replace(asked.case, design=Design.fixed(seeds), effect=asked.effect)
            return simulate(case, few, seed=o.seed, advance=lambda: progress.advance(bar))

        needed = {
            "seeds": seeds_for_power(lambda seeds: with_seeds(seeds).right),
            "student": seeds_for_power(lambda seeds: with_seeds(seeds).student_right),
        }
    case = asked.case
    return {
        "search": asked.search,
        "task": asked.task,
        "metric": asked.metric.name,
        "unit": asked.metric.unit,
        "linear": True,
        "margin": case.margin,
        "effect": asked.effect,
        "components": asdict(case.components),
        "components_from": asked.components_from,
        "finalists": case.finalists,
        "reference": case.reference,
        "trials": case.trials,
        "sd_setting": case.setting,
        "same_texts": case.same_texts,
        "simulations": o.simulations,
        "seed": o.seed,
        "rows": rows,
        "needed_for_power": {"power": POWER, **needed},
    }


def _row(design: "Design", none: "Rates", effect: "Rates", edge: "Rates") -> dict[str, Any]:
    """One line: of searches where nothing differs, where the first differs by the effect, and where by the margin."""
    return {
        "seeds": design.most,
        "looks": list(design.looks),
        "seeds_used": {"no_effect": none.seeds, "effect": effect.seeds},
        "false_winners": none.wrong,
        "difference_named": none.named,
        "p_below_level": none.p_wrong,
        "power": effect.right,
        "p_power": effect.p_right,
        "coverage": _least(none.covered, effect.covered),
        "equivalent_rightly": none.equivalent,
        "equivalent_wrongly": edge.unlike,
        "student": {
            "false_winners": none.student_wrong,
            "power": effect.student_right,
            "coverage": _least(none.student_covered, effect.student_covered),
        },
    }


def _least(*shares: float | None) -> float | None:
    known = [share for share in shares if share is not None]
    return min(known) if known else None


def _show(asked: Asked, found: Mapping[str, Any]) -> None:

    from gpt2core.console import console as console_of

    console = console_of(160)
    console.print("\n".join(_assumptions(asked, found)), markup=False, highlight=False, soft_wrap=True)
    console.print(_table(asked, found))
    console.print("\n".join(_conclusions(asked, found)), markup=False, highlight=False, soft_wrap=True)


def _assumptions(asked: Asked, found: Mapping[str, Any]) -> list[str]:
    """What was simulated, in words."""
    from searches.formatting import count

    case, parts, unit = asked.case, asked.case.components, asked.metric.unit
    outputs = f" (of each of {parts.outputs} outputs {parts.output:.3g})" if parts.output else ""
    compared = f"{count(case.finalists, 'finalist')}, " + (
        "each against the reference" if case.reference else "in all pairs"
    )
    chosen = (
        f"; each is the best of {case.trials} trials whose true scores differ by {case.setting:.3g}, judged on "
        + ("the SAME texts" if case.same_texts else "other texts")
        if case.trials > 1
        else ""
    )
    return [
        f"Search {asked.search}, task {asked.task}, {asked.metric.name}: a difference of {asked.effect:g} {unit} is to be found, "
        f"less than {case.margin:g} is practically none.",
        f"Standard deviations: runs {parts.run:.3g}, example in a setting {parts.example:.3g}, example in a run "
        f"{parts.interaction:.3g}{outputs}; {parts.examples:,} examples. {asked.components_from}.",
        f"Compared: {compared}{chosen}. The metric is taken for a mean over examples, and all effects for normal.",
    ]


def _table(asked: Asked, found: Mapping[str, Any]) -> Any:
    from rich.table import Table

    simulations = found["simulations"]
    error = 100 * math.sqrt(0.05 * 0.95 / simulations)
    looks = len(found["rows"][0]["looks"]) > 1 or found["rows"][-1]["seeds"] != found["rows"][-1]["looks"][0]
    table = Table(
        title=f"{simulations:,} simulated searches a line, so that 5% is known to {error:.1f} points; standard deviations: "
        + asked.components_from
    )
    several = _selects(asked)
    headings = [
        "seeds",
        *(["used: no effect, effect"] if looks else []),
        "false winners",
        *(["values told apart"] if several else []),
        f"power for {asked.effect:g}",
        "intervals hold",
        "alike: rightly",
        "wrongly",
        "t-test: false",
        "power",
        "hold",
    ]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in found["rows"]:
        used, student = row["seeds_used"], row["student"]
        table.add_row(
            str(row["seeds"]),
            *([f"{used['no_effect']:.1f}, {used['effect']:.1f}"] if looks else []),
            _percent(row["false_winners"]),
            *([_percent(row["difference_named"])] if several else []),
            _percent(row["power"]),
            _percent(row["coverage"]),
            _percent(row["equivalent_rightly"]),
            _percent(row["equivalent_wrongly"]),
            _percent(student["false_winners"]),
            _percent(student["power"]),
            _percent(student["coverage"]),
        )
    return table


def _selects(asked: Asked) -> bool:
    """Whether settings of one value truly differ, so that the best of two values may where the values do not."""
    return asked.case.trials > 1 and asked.case.setting > 0


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _conclusions(asked: Asked, found: Mapping[str, Any]) -> list[str]:
    """What the table does not say by itself."""
    needed = found["needed_for_power"]
    most = MOST["seeds"]
    ours, student = (
        f"{needed[name]} seeds each" if needed[name] else f"more than {most} seeds each"
        for name in ("seeds", "student")
    )
    rows = found["rows"]
    return [
        f"For 80% power, all run before one look: {ours}; the t-test on run means takes {student}, for these texts alone.",
        *(["Of fewer than 3 runs nobody is named the winner."] if rows[0]["seeds"] < 3 else []),
        *(
            ["More texts, not more seeds, would tell."]
            if needed["seeds"] is None and asked.case.components.example
            else []
        ),
        *(
            [
                "Values told apart: a difference was named between settings of values that are alike; their best may differ."
            ]
            if _selects(asked)
            else []
        ),
        "The t-test takes runs as all that varies: its figures hold for these very texts, and are false of others.",
    ]
