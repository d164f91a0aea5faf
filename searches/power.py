"""Simulate searches through the functions that judge real ones: `gpt2-search power --search lora_rank`.

For each number of seeds it prints the rate of false winners, the power for a true difference, the coverage of the intervals, and
how often settings are rightly or wrongly called equivalent.
"""

import argparse
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from gpt2core.cli import Group, Parser, at_least
from gpt2core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from gpt2core.metrics.metric import Metric
    from searches.deciding.decision import Design
    from searches.deciding.power_simulation import Case, Components, Rates
    from searches.plan import Plan
    from searches.running.ledger import State

SEEDS, SIMULATIONS = "2,3,5,10", 2000
FEW = 500  # most simulations for each number of seeds in the search for the number needed
MOST = {"seeds": 200, "examples": 10**6, "outputs": 10**6, "trials": 10**4, "simulations": 10**6, "finalists": 20}
LARGEST = 1e100  # of a standard deviation, so that its square is finite
COMPONENTS = ("sd_run", "sd_example", "sd_interaction", "sd_output", "examples", "outputs")
ASSUMED = {"run": 0.5, "example": 2.0, "interaction": 2.0}  # standard deviations in units of the metric's margin
EXAMPLES = 100


def flags(p: Parser) -> None:
    """Add the flags of the command."""
    _question(p.add_argument_group("question"))
    _components(p.add_argument_group("how scores vary, as standard deviations in units of the metric"))
    _search(p.add_argument_group("how the search runs"))
    p.add_argument("--simulations", type=int, default=SIMULATIONS, help=f"searches per row (default: {SIMULATIONS:,})")
    p.add_argument("--seed", type=int, default=0, help="seed of the simulations (default: 0)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def _question(p: Group) -> None:
    p.add_argument(
        "--search",
        metavar="SCRIPT",
        help="a script of searches/, such as lora_rank, or the path of any script or search file",
    )
    p.add_argument("--task", help="one of its tasks (default: its first)")
    p.add_argument("--objective", metavar="METRIC", help="a metric of the task (default: the task's own)")
    p.add_argument("--effect", type=float, metavar="D", help="the true difference to detect (default: the margin)")
    p.add_argument("--margin", type=float, metavar="D", help="ignore differences below D (default: the metric's)")
    p.add_argument("--seeds", metavar="N,N,...", help=f"fresh seeds of each setting, one row each (default: {SEEDS})")


def _components(p: Group) -> None:
    p.add_argument("--from", dest="name", metavar="NAME", help="estimate all of them from the replicates of a search")
    p.add_argument("--storage", help="the --storage of that search (default: ./runs)")
    p.add_argument("--sd-run", type=float, metavar="SD", help="between runs of a setting")
    p.add_argument("--sd-example", type=float, metavar="SD", help="between examples, in one setting only")
    p.add_argument("--sd-interaction", type=float, metavar="SD", help="between examples, in one run only")
    p.add_argument("--sd-output", type=float, metavar="SD", help="between outputs of a run for the same example")
    p.add_argument("--examples", type=int, metavar="N", help=f"examples that score a run (default: {EXAMPLES})")
    p.add_argument("--outputs", type=int, metavar="N", help="outputs per example, which are averaged (default: 1)")


def _search(p: Group) -> None:
    p.add_argument("--finalists", type=int, metavar="K", help="settings to compare (default: as the search does)")
    p.add_argument("--reference", action="store_true", help="compare each with a reference instead of all pairs")
    p.add_argument("--looks", metavar="N,N,...", help="compare after these numbers of seeds; stop once decided")
    p.add_argument("--until", choices=("decided",), help="compare after each seed from the third on, up to --seeds")
    words = "trials of each value, whose best is compared (default: 1)"
    p.add_argument("--trials", type=int, default=1, metavar="T", help=words)
    words = "between the true scores of those trials (default: 0)"
    p.add_argument("--sd-setting", type=float, metavar="SD", help=words)
    words = "compare on the texts that selected the best trials, to see how wrong that is"
    p.add_argument("--same-texts", action="store_true", help=words)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate, and where its variance components come from."""

    search: str
    task: str
    metric: "Metric"
    case: "Case"
    designs: "tuple[Design, ...]"
    effect: float
    components_from: str

    @property
    def selects(self) -> bool:
        """Whether the trials of one value truly differ, so that the best trials of equal values may differ too."""
        return self.case.trials > 1 and self.case.setting > 0


def power(options: argparse.Namespace) -> int:
    """Simulate and print; return 0. Raises UserError."""
    simulation = _simulation(options)
    results = _simulate(simulation, options)
    print(json.dumps(results, indent=2)) if options.json else _show(simulation, results)
    return 0


def _simulation(o: argparse.Namespace) -> Simulation:
    _check(o)
    from gpt2core.component import lookup
    from searches.deciding.power_simulation import Case

    plan, state = _planned(o) if o.name is None else _recorded(o)
    metric = lookup(plan.metrics, o.objective or plan.objective, "metric")
    margin = metric.margin if o.margin is None else o.margin
    parts, origin = _given(o, margin) if state is None else _estimated(o, plan, state, metric)
    designs = _designs(o)
    compared = plan.compared or 2
    settings = min(compared if plan.compares_each else compared - 1, MOST["finalists"])
    case = Case(
        components=parts,
        design=designs[0],
        margin=margin,
        finalists=settings if o.finalists is None else o.finalists,
        reference=o.reference or not plan.compares_each,
        trials=o.trials,
        setting=o.sd_setting or 0.0,
        same_texts=o.same_texts,
    )
    return Simulation(
        search=plan.search.name,
        task=plan.task,
        metric=metric,
        case=case,
        designs=designs,
        effect=margin if o.effect is None else o.effect,
        components_from=origin,
    )


def _check(o: argparse.Namespace) -> None:
    """Raise ConfigError for numbers out of range, and for flags that contradict each other."""
    at_least(o, 1, "simulations", "trials", "examples", "outputs")
    at_least(o, 1 if o.reference else 2, "finalists")
    at_least(o, 0, "seed")
    for name, most in MOST.items():
        value = getattr(o, name)
        if isinstance(value, int) and value > most:
            raise ConfigError(f"The value of `--{name}` is {value}, but must be <= {most}")
    for name in ("sd_run", "sd_example", "sd_interaction", "sd_output", "sd_setting", "effect", "margin"):
        value, sign = getattr(o, name), ">" if name in ("effect", "margin") else ">="
        if value is not None and not (value <= LARGEST and (value > 0 or (sign == ">=" and value == 0))):
            rule = f"a number {sign} 0, and <= {LARGEST:g}"
            raise ConfigError(f"The value of `--{name.replace('_', '-')}` is {value:g}, but must be {rule}")
    given = next((name for name in COMPONENTS if getattr(o, name) is not None), None)
    if o.name is not None and given is not None:
        raise ConfigError(f"Both --from and --{given.replace('_', '-')} say how scores vary; give one of them")
    if o.looks and (o.seeds or o.until):
        raise ConfigError(f"Both --looks and --{'seeds' if o.seeds else 'until'} say when to compare; give one of them")
    if o.name is None and o.search is None:
        raise ConfigError("There is no search to simulate; give --search SCRIPT, or --from NAME")


def _numbers(flag: str, text: str, least: int) -> tuple[int, ...]:
    """Return increasing numbers of seeds. Raises ConfigError."""
    words = text.split(",")
    numbers = [int(word) for word in words if word.strip().isdecimal()]
    valid = len(numbers) == len(words) and numbers == sorted(set(numbers)) and least <= numbers[0]
    if not valid or numbers[-1] > MOST["seeds"]:
        rule = f"increasing numbers from {least} to {MOST['seeds']}, such as {SEEDS}"
        raise ConfigError(f"The value of `--{flag}` is {text!r}, but must be {rule}")
    return tuple(numbers)


def _designs(o: argparse.Namespace) -> "tuple[Design, ...]":
    """Return the number of seeds and the looks of each row."""
    from searches.deciding.decision import Design

    if o.looks:
        return (Design(looks=_numbers("looks", o.looks, 2)),)
    make = Design.until_decided if o.until else Design.fixed
    return tuple(make(seeds) for seeds in _numbers("seeds", o.seeds or SEEDS, 1))


def _planned(o: argparse.Namespace) -> "tuple[Plan, None]":
    from searches.plan import make_plan
    from searches.search_file import search_at

    search = search_at(o.search)
    settings = {} if o.task is None else {"task": o.task}
    return make_plan(search, next(iter(search.profiles)), settings=settings), None


def _recorded(o: argparse.Namespace) -> "tuple[Plan, State]":
    """Return the plan of the search `--from` and its state, read from its ledger. Raises UserError."""
    from searches.places import search_folder
    from searches.running.ledger import read_search
    from searches.running.resume import options_again
    from searches.search_file import search_at

    state = read_search(search_folder(o.storage, o.name), needs_script=True)
    if o.search is not None and search_at(o.search).name != state.script:
        raise ConfigError(f"The search `{o.name}` is of {state.script}, but --search is {o.search}")
    plan = options_again(state, [*state.flags, "--name", o.name]).plan
    if o.task not in (None, plan.task):
        raise ConfigError(f"The search `{o.name}` has the task {plan.task}, but --task is {o.task}")
    return plan, state


def _estimated(o: argparse.Namespace, plan: "Plan", state: "State", metric: "Metric") -> "tuple[Components, str]":
    """Return the components estimated from replicates, as the search judged them, and a note on their origin."""
    from searches.deciding.confirmation import judged, runs_of_metric
    from searches.deciding.power_simulation import components

    names = dict.fromkeys(trial.of for trial in state.trials.values() if trial.of is not None)
    runs = [runs_of_metric(judged(plan, state, name, MOST["seeds"]), metric) for name in names]
    try:
        parts, settings = components([side for side in runs if side is not None])
    except ValueError:
        rule = f"has no setting with two or more replicates that are judged by {metric.name}"
        raise UserError(f"The search `{o.name}` {rule}; give --sd-run and others") from None
    note = "; sd-example is 0, since one setting cannot tell it" if settings < 2 else ""
    return parts, f"estimated from the replicates of {settings} settings of {o.name}{note}"


def _given(o: argparse.Namespace, margin: float) -> "tuple[Components, str]":
    """Return the components given by flags, or else assumed ones, and a note on their origin."""
    from searches.deciding.power_simulation import Components

    examples, outputs = o.examples or EXAMPLES, o.outputs or 1
    given = {name: getattr(o, f"sd_{name}") for name in ("run", "example", "interaction", "output")}
    if any(value is not None for value in given.values()):
        sds, origin = {name: value or 0.0 for name, value in given.items()}, "as given, else 0"
        if not any(sds.values()):
            raise ConfigError("Nothing varies by chance: all of --sd-run and others are 0, but one must be > 0")
    else:
        sds = {name: share * margin for name, share in ASSUMED.items()}
        origin = "ASSUMED in units of the margin, not measured; see --from and --sd-run"
    return Components(examples=examples, outputs=outputs, **sds), origin


def _simulate(simulation: Simulation, o: argparse.Namespace) -> dict[str, Any]:
    """Simulate; return the object that --json prints."""
    from rich.progress import Progress

    from gpt2core.console import PlainConsole
    from searches.deciding.decision import POWER, Design
    from searches.deciding.power_simulation import seeds_for_power, simulate

    console, effect, few = PlainConsole(stderr=True), simulation.effect, min(o.simulations, FEW)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulated searches", total=None)

        def rates(design: Design, effect: float, simulations: int = o.simulations) -> "Rates":
            case = replace(simulation.case, design=design, effect=effect)
            return simulate(case, simulations, seed=o.seed, advance=lambda: progress.advance(bar))

        rows = []
        for design in simulation.designs:
            at_effect = rates(design, effect)
            at_margin = at_effect if effect == simulation.case.margin else rates(design, simulation.case.margin)
            rows.append(_row(design, rates(design, 0.0), at_effect, at_margin))

        @functools.cache
        def with_seeds(seeds: int) -> "Rates":
            return rates(Design.fixed(seeds), effect, few)

        needed = {
            "seeds": seeds_for_power(lambda seeds: with_seeds(seeds).right),
            "student": seeds_for_power(lambda seeds: with_seeds(seeds).student_right),
        }
    case = simulation.case
    return {
        "search": simulation.search,
        "task": simulation.task,
        "metric": simulation.metric.name,
        "unit": simulation.metric.unit,
        "linear": True,
        "margin": case.margin,
        "effect": effect,
        "components": asdict(case.components),
        "components_from": simulation.components_from,
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


def _row(design: "Design", none: "Rates", effect: "Rates", margin: "Rates") -> dict[str, Any]:
    """Return a row from the rates without a difference, with the effect, and with a difference of the margin."""
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
        "equivalent_wrongly": margin.unlike,
        "student": {
            "false_winners": none.student_wrong,
            "power": effect.student_right,
            "coverage": _least(none.student_covered, effect.student_covered),
        },
    }


def _least(*shares: float | None) -> float | None:
    known = [share for share in shares if share is not None]
    return min(known) if known else None


def _show(simulation: Simulation, results: Mapping[str, Any]) -> None:
    from gpt2core.console import console as console_of
    from gpt2core.console import print_line
    from searches.showing.tables import Column, Table, print_table

    console = console_of(200)
    for line in _assumptions(simulation):
        print_line(console, line)
    error = 100 * math.sqrt(0.05 * 0.95 / results["simulations"])
    title = f"{results['simulations']:,} simulated searches per row; a rate of 5% has a standard error of {error:.1f} points"
    rows = [_cells(simulation, row) for row in results["rows"]]
    columns = [Column[dict[str, str]](heading, itemgetter(heading), number=True) for heading in rows[0]]
    print_table(console, Table(title=title, columns=columns, rows=rows))
    for line in _conclusions(simulation, results):
        print_line(console, line)


def _assumptions(simulation: Simulation) -> list[str]:
    from searches.formatting import count

    case, parts, unit = simulation.case, simulation.case.components, simulation.metric.unit
    outputs = f" (each of {parts.outputs} outputs {parts.output:.3g})" if parts.output else ""
    pairs = "each against the reference" if case.reference else "in all pairs"
    selected = ""
    if case.trials > 1:
        texts = "the SAME texts" if case.same_texts else "other texts"
        selected = f"; each is the best of {case.trials} trials whose true scores have SD {case.setting:.3g}, compared on {texts}"
    return [
        f"Search {simulation.search}, task {simulation.task}, {simulation.metric.name}: the true difference is "
        f"{simulation.effect:g} {unit}; differences below {case.margin:g} do not matter.",
        f"Standard deviations: run {parts.run:.3g}, example within a setting {parts.example:.3g}, example within a run "
        f"{parts.interaction:.3g}{outputs}; {parts.examples:,} examples. {simulation.components_from}.",
        f"Compared: {count(case.finalists, 'finalist')}, {pairs}{selected}. Assumptions: the metric is a mean over examples, and "
        "all effects are normal.",
    ]


def _cells(simulation: Simulation, row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the table by its headings."""
    used, student = row["seeds_used"], row["student"]
    cells = {"seeds": str(row["seeds"])}
    if any(len(design.looks) > 1 for design in simulation.designs):
        cells["seeds used: no effect, effect"] = f"{used['no_effect']:.1f}, {used['effect']:.1f}"
    cells["false winners"] = _percent(row["false_winners"])
    if simulation.selects:
        cells["differences named"] = _percent(row["difference_named"])
    return cells | {
        f"power for {simulation.effect:g}": _percent(row["power"]),
        "interval coverage": _percent(row["coverage"]),
        "equivalent: rightly": _percent(row["equivalent_rightly"]),
        "wrongly": _percent(row["equivalent_wrongly"]),
        "t-test: false": _percent(student["false_winners"]),
        "power": _percent(student["power"]),
        "coverage": _percent(student["coverage"]),
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _conclusions(simulation: Simulation, results: Mapping[str, Any]) -> list[str]:
    needed = results["needed_for_power"]
    ours, student = (f"{needed[name] or 'more than ' + str(MOST['seeds'])} seeds each" for name in ("seeds", "student"))
    lines = [
        f"For 80% power in a single comparison: {ours}; a t-test on run means needs {student}, for these texts only."
    ]
    if results["rows"][0]["seeds"] < 3:
        lines.append("With fewer than 3 runs, no winner is named.")
    if needed["seeds"] is None and simulation.case.components.example:
        lines.append("More texts are needed, not more seeds.")
    if simulation.selects:
        lines.append(
            "Differences named: reported between values that are equal, although their best trials may differ."
        )
    return [
        *lines,
        "The t-test treats runs as the only source of variation: its rates hold for these texts, not for others.",
    ]
