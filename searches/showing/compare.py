"""The command `compare`: the chosen trials of two searches, by their runs on fresh seeds and on the same texts."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gpt2core.cli import print_json
from gpt2core.console import console, print_exact, print_line
from gpt2core.errors import UserError
from gpt2core.metrics.comparison import Difference, mean_of
from gpt2core.naming import words
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import model_folder
from searches.deciding.confirmation import rounds_of, side_of
from searches.deciding.decision import DIFFERENCE, EQUIVALENT, Decision, Design, Side, decide
from searches.deciding.results import judging_texts
from searches.deciding.wording import MetricText, needed_text, scope_text
from searches.formatting import count, p_text, value_text, with_interval
from searches.plan import Plan
from searches.promoting.selection import Chosen, choose, load_search
from searches.result_files import LEDGER
from searches.running.ledger import State, read_state
from searches.showing.answers import OUTCOMES
from searches.showing.compare_picture import BestSoFar, Line, check_plot, comparison_svg, draw_comparison
from searches.showing.summary import reopened
from searches.showing.tables import Column, Table, as_html, print_table
from trainables.runs import parameters, run_of


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A search, and its trial that is compared."""

    name: str
    folder: Path
    plan: Plan
    state: State
    chosen: Chosen

    @property
    def config(self) -> dict[str, Any]:
        """The values of the trial's run."""
        return self.chosen.trial.run

    @property
    def course(self) -> BestSoFar:
        """The best scores so far whenever a trial ended."""
        course = BestSoFar(self.plan)
        read_state(self.folder / LEDGER, course)
        return course

    @cached_property
    def side(self) -> Side:
        """The trial's runs on fresh seeds; raise UserError without any."""
        trial = self.chosen.trial.name
        seeds = rounds_of(self.state, [trial])
        if not seeds:
            raise UserError(f"Trial {trial} of {self.name} was not run on fresh seeds, so it cannot be compared")
        return side_of(self.plan, self.state, trial, self.name, seeds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between the chosen trials of two searches; a notebook shows it with the curves of both."""

    sides: tuple[Compared, Compared]
    decision: Decision

    @property
    def outcome(self) -> str:
        """`difference`, `equivalent` or `undecided`."""
        return self.decision.outcome

    @property
    def answer(self) -> str:
        """The answer, and what it holds for."""
        return _text(self.decision, self.sides[0])

    @property
    def difference(self) -> Difference | None:
        """The first search minus the second, with its interval and p-value; None without runs to compare."""
        return self.decision.pairs[0].difference if self.decision.pairs else None

    @property
    def settings(self) -> list[tuple[str, str, str]]:
        """The keys in which the trials differ, each with both values."""
        return _differing(*(side.config for side in self.sides))

    @property
    def tables(self) -> list[Table[Any]]:
        """The runs of both trials, and their settings."""
        one, other = self.sides
        return [_runs_table([one, other]), _settings_table(self.settings, one.name, other.name)]

    @property
    def lines(self) -> list[Line]:
        """What the picture shows."""
        return [Line(name=side.name, course=side.course, trial=side.chosen.trial) for side in self.sides]

    def plot(self, path: str | Path) -> None:
        """Draw the curves of both searches into an .svg, .png or .pdf file. Raises UserError."""
        check_plot(str(path))
        draw_comparison(self.lines, self.sides[0].plan.objective, Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        plan, difference = self.sides[0].plan, self.difference
        means = [mean_of(side.side.runs) if side.side.runs else None for side in self.sides]
        return {
            "outcome": self.outcome,
            "outcome_text": OUTCOMES[self.outcome],
            "answer": self.answer,
            "difference": difference and asdict(difference),
            "objective": {"name": plan.objective, "unit": plan.metric.unit, "margin": plan.margin},
            "searches": [
                {
                    "name": side.name,
                    "trial": side.chosen.trial.name,
                    "runs": side.side.runs.count if side.side.runs else 0,
                    "mean": mean and {"estimate": mean.estimate, "low": mean.low, "high": mean.high},
                }
                for side, mean in zip(self.sides, means, strict=True)
            ],
            "settings": self.settings,
        }

    def __repr__(self) -> str:
        return f"<Comparison of {' and '.join(side.name for side in self.sides)}: {self.answer}>"

    def __str__(self) -> str:
        return self.answer

    def _repr_html_(self) -> str:
        """Show answer, tables and curves in a notebook."""
        picture = Markup(comparison_svg(self.lines, self.sides[0].plan.objective))
        return Markup("<p>{}</p>").format(self.answer) + Markup("").join(map(as_html, self.tables)) + picture


def compared(name: str, other: str, storage: str | None = None) -> Comparison:
    """Compare the chosen trials of two searches. Raises UserError if they cannot be compared."""
    if name == other:
        raise UserError(f"Both searches are `{name}`, but must be different ones")
    one, two = _compared(name, storage), _compared(other, storage)
    _check_comparable(one, two)
    plan = one.plan
    design = Design.fixed(min(side.side.runs.count for side in (one, two) if side.side.runs is not None))
    decision = decide([one.side, two.side], margin=plan.margin, direction=plan.direction, design=design)
    return Comparison(sides=(one, two), decision=decision)


def compare(options: argparse.Namespace) -> int:
    """Print how the chosen trials of two searches differ, and draw their curves. Raises UserError."""
    check_plot(options.plot)
    comparison = compared(options.name, options.other, options.storage)
    if options.plot:
        comparison.plot(options.plot)
    if options.json:
        print_json(comparison.to_dict())
        return 0
    screen = console(160)
    for table in comparison.tables:
        print_table(screen, table)
    print_line(screen, comparison.answer)
    if options.plot:
        print_exact(screen, f"Plot: {options.plot}")
    return 0


def _compared(name: str, storage: str | None) -> Compared:
    chosen = choose(load_search(storage, name), None)
    folder, state, options = reopened(argparse.Namespace(name=name, storage=storage))
    return Compared(name=name, folder=folder, plan=options.plan, state=state, chosen=chosen)


def _check_comparable(one: Compared, other: Compared) -> None:
    """Raise UserError unless both searches were judged by the same metric on the same texts."""
    for what, first, second in (
        ("metric", one.plan.objective, other.plan.objective),
        ("data", one.state.data.get("digest"), other.state.data.get("digest")),
        ("texts that judge", judging_texts(one.state), judging_texts(other.state)),
    ):
        if first != second:
            raise UserError(
                f"The {what} of {one.name} and {other.name} differ ({first}; {second}), so scores cannot be compared"
            )
    if one.plan.metric.counts == "loss" and one.config["model"] != other.config["model"]:
        tokenizers = [Tokenizer.load(model_folder(side.config["model"])).backend.to_str() for side in (one, other)]
        if tokenizers[0] != tokenizers[1] and one.plan.objective != "bits_per_character":
            raise UserError(
                f"The models {one.config['model']} and {other.config['model']} have different tokens, so {one.plan.objective} "
                "cannot be compared; search with --objective bits_per_character"
            )


def _text(decision: Decision, one: Compared) -> str:
    """Return the answer, and what it holds for."""
    text = MetricText(one.plan.metric)
    scope = scope_text(decision, judging_texts(one.state), f"{count(decision.seeds, 'fresh seed')} per search")
    if decision.reason or not decision.pairs:
        return f"Not decided: {decision.reason}. {scope}"
    (pair,) = decision.pairs
    better, worse, amount = text.advantage(pair)
    p = "" if pair.p_value is None else f", {p_text(pair.p_value)}"
    ahead = f"{better} is better than {worse} by {amount} in {text.name}{p}"
    margin = text.amount(one.plan.margin)
    answer = {
        DIFFERENCE: f"The searches differ: {ahead}.",
        EQUIVALENT: f"No difference that matters: {ahead}, within the equivalence margin of {margin}.",
    }.get(decision.outcome, f"Not decided: {ahead} (the equivalence margin is {margin}).")
    return " ".join([answer, *needed_text(decision), scope])


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the keys in which two runs differ, each with both values; a key that a run does not read has none."""
    one, other = (parameters(run_of(values).model_dump()) for values in (first, second))
    rows = [
        (name, value_text(one.get(name)), value_text(other.get(name))) for name in sorted(one.keys() | other.keys())
    ]
    return [row for row in rows if row[1] != row[2]]


def _runs_table(sides: list[Compared]) -> Table[Compared]:
    metric = sides[0].plan.metric

    def mean(row: Compared) -> str:
        if row.side.runs is None:
            return ""
        known = mean_of(row.side.runs)
        return with_interval(known.estimate, known.low, known.high, metric.digits)

    columns = [
        Column[Compared]("search", lambda row: row.name),
        Column[Compared]("trial", lambda row: row.chosen.trial.name),
        Column[Compared](
            "runs on fresh seeds", lambda row: str(row.side.runs.count if row.side.runs else 0), number=True
        ),
        Column[Compared](f"their mean {words(metric.name)} [95% interval]", mean, number=True),
    ]
    return Table(title="The chosen trial of each search", columns=columns, rows=sides)


def _settings_table(rows: list[tuple[str, str, str]], one: str, other: str) -> Table[tuple[str, str, str]]:
    columns = [
        Column[tuple[str, str, str]]("setting", lambda row: words(row[0])),
        Column[tuple[str, str, str]](one, lambda row: row[1]),
        Column[tuple[str, str, str]](other, lambda row: row[2]),
    ]
    return Table(title="Settings in which they differ", columns=columns, rows=rows)
