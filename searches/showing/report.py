"""The report of a search: one HTML file that needs no other, and the same as Markdown, both from the summary alone."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from gpt2core.errors import all_visible
from gpt2core.files import atomic_path
from gpt2core.storage import send
from searches.formatting import count
from searches.showing.answer_picture import answer_picture, expected_picture
from searches.showing.answers import numbers
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.showing.numbers import words
from searches.showing.plots import curve_pictures, curves, front, front_pictures, intervals, parallel
from searches.showing.report_tables import (
    baselines_table,
    cost_table,
    differences_table,
    effects_table,
    environment_table,
    failures_table,
    front_table,
    pairs_table,
    predicted_table,
    reliability_table,
    replicates_table,
    settings_table,
    space_table,
    time_table,
    trials_table,
)
from searches.showing.tables import Table, as_html, as_markdown
from searches.summary import Summary, TrialRow

FILES = ("report.html", "report.md")
SECTIONS = {
    "comparison": "Comparison",
    "trials": "Trials",
    "curves": "Learning curves",
    "hyperparameters": "Hyperparameters",
    "effects": "What mattered",
    "metrics": "Metrics",
    "front": "Quality and cost",
    "samples": "Texts",
    "failures": "Failures",
    "cost": "Cost",
    "environment": "Environment",
    "data": "Data",
    "reproduce": "Reproduce",
}


def write(folder: Path, summary: Summary) -> list[Path]:
    """Write the report of a search into its results folder, with the plots of its Markdown; return its files, the page first."""
    environment = Environment(
        loader=PackageLoader("searches.showing", "."),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": markdown_cell, "fence": markdown_fence, "code": markdown_code}
    environment.filters |= {"html": as_html, "markdown": as_markdown}
    summary = Summary.model_validate(all_visible(summary.model_dump()))
    found = view(summary)
    texts = {name: environment.get_template(name).render(found) for name in FILES} | plots(summary)
    for name, text in texts.items():
        with atomic_path(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        send(folder / name)
    return [folder / name for name in texts]


def plots(summary: Summary) -> dict[str, str]:
    """All pictures of a search, by the name of a file."""
    drawn = {"curves.svg": curves(summary), "front.svg": front(summary)}
    pictures = {
        "answer.svg": answer_picture(summary),
        "expected.svg": expected_picture(summary),
        "intervals.svg": intervals(summary),
        "parallel.svg": parallel(summary),
    }
    drawn |= {name: picture.svg for name, picture in pictures.items() if picture}
    return {name: svg for name, svg in drawn.items() if svg}


def view(summary: Summary) -> dict[str, Any]:
    """Return what the templates show: words, tables and pictures. A fact that the summary lacks is left out."""
    every: dict[str, Table[Any]] = {
        "settings": settings_table(summary.answer),
        "differences": differences_table(summary.answer),
        "trials": trials_table(summary),
        "baselines": baselines_table(summary),
        "replicates": replicates_table(summary),
        "space": space_table(summary),
        "effects": effects_table(summary),
        "reliability": reliability_table(summary),
        "front": front_table(summary),
        "failures": failures_table(summary),
        "cost": cost_table(summary),
        "predicted": predicted_table(summary),
        "time": time_table(summary),
        "pairs": pairs_table(summary),
        "environment": environment_table({**summary.environment, **summary.versions}),
    }
    tables = {name: table for name, table in every.items() if table.rows or name in ("trials", "environment")}
    shown = {"front": bool(summary.pareto), "metrics": "reliability" in tables}
    return {
        "summary": summary,
        "sections": [item for item in SECTIONS.items() if shown.get(item[0], True)],
        "judged_by": _judged_by(summary),
        "numbers": numbers(summary.answer),
        "notes": [*summary.answer.notes, *notes(summary)],
        "pictures": {"answer": answer_picture(summary), "expected": expected_picture(summary)},
        "intervals": intervals(summary),
        "tables": tables,
        "curves": curve_pictures(summary),
        "parallel": parallel(summary),
        "fronts": front_pictures(summary),
        "samples": samples(summary),
    }


def notes(summary: Summary) -> list[str]:
    """What takes weight from the scores, said plainly: a smoke test, a stand-in, an unfinished search."""
    said = []
    if summary.smoke:
        said.append("This was a smoke test, on a few rows: its scores mean nothing.")
    if summary.model_is_stand_in:
        said.append(f"A stand-in model took part: {summary.model}. Its scores say nothing of the real one.")
    if summary.origin and summary.origin.stand_in:
        said.append(f"The data is a stand-in: {summary.data['data']}.")
    critics = dict.fromkeys(made.stand_in for made in summary.pairs.values() if made.stand_in)
    said += [f"The critic of the generated pairs was {why}." for why in critics]
    if unfinished := summary.counts.get("unfinished"):
        said.append(f"{count(unfinished, 'trial')} had not ended when this was written.")
    return said


def samples(summary: Summary) -> list[dict[str, Any]]:
    """Texts by example: what all trials share (what was given, the gold), then what each of them wrote."""
    examples: dict[str, dict[str, dict[str, str]]] = {}
    for name, texts in summary.samples.items():
        for sample in texts:
            examples.setdefault(sample["id"], {})[name] = {k: v for k, v in sample.items() if k != "id"}
    return [{"id": example, "texts": _side_by_side(of_trials, summary)} for example, of_trials in examples.items()]


def _side_by_side(of_trials: dict[str, dict[str, str]], summary: Summary) -> list[tuple[str, str]]:
    keys = dict.fromkeys(key for texts in of_trials.values() for key in texts)
    shared, own = [], []
    for key in keys:
        values = {name: texts[key] for name, texts in of_trials.items() if key in texts}
        if (
            len(of_trials) > 1
            and len(values) == len(of_trials)
            and len(set(values.values())) == 1
            and key != "generated"
        ):
            shared.append((key, next(iter(values.values()))))
        else:
            own += [(f"{key}, {role(name, summary)}", value) for name, value in values.items()]
    return [*shared, *own]


def role(name: str, summary: Summary) -> str:
    """A trial with what it is: winner, best score, reference."""
    roles = {"winner": summary.answer.winner, "best score": _id(summary.best), "reference": _id(summary.reference)}
    return ", ".join([f"trial {name}", *(word for word, of in roles.items() if of == name)])


def _id(row: TrialRow | None) -> str | None:
    return row.id if row else None


def _judged_by(summary: Summary) -> str:
    costs = f", and {', '.join(map(words, summary.costs))}" if summary.costs else ""
    method = summary.method
    how = f" Sampler {method.sampler}, scheduler {method.scheduler}." if method else ""
    limits = f" The winner keeps {' and '.join(method.limits)}." if method and method.limits else ""
    wanted = f"the {summary.direction.wanted} the better"
    return f"Judged by {words(summary.objective)} ({wanted}){costs}.{limits}{how}"
