"""The report of a search: a self-contained HTML file, and the same as Markdown, both made from the summary alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from gpt2core.errors import all_visible
from gpt2core.files import atomic_path
from gpt2core.naming import words
from gpt2core.storage import send
from searches.formatting import count
from searches.result_files import MARKDOWN, REPORT
from searches.showing.answer_picture import answer_picture, expected_picture
from searches.showing.answers import numbers
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.showing.page_script import script, script_digest, trial_facts
from searches.showing.plots import Picture, curve_pictures, curves, front, front_pictures, intervals, parallel
from searches.showing.report_tables import TABLES
from searches.showing.tables import as_html, as_markdown
from searches.showing.texts import examples
from searches.showing.theme import color_variables, themed
from searches.summary import Summary

PRINTED = 40  # rows of a table on paper
#: Id of a section -> its name in the table of contents.
SECTIONS = {
    "comparison": "Comparison",
    "trials": "Trials",
    "curves": "Learning curves",
    "hyperparameters": "Hyperparameters",
    "effects": "What mattered",
    "metrics": "Metrics",
    "front": "Trade-offs",
    "gains": "Tasks",
    "samples": "Texts",
    "failures": "Failures",
    "cost": "Cost",
    "environment": "Environment",
    "data": "Data",
    "reproduce": "Reproduce",
}


def write(folder: Path, summary: Summary) -> list[Path]:
    """Write the report of a search, with the plots of its Markdown, into the results folder; return its files, HTML first."""
    return save(folder, view(summary))


def save(folder: Path, values: dict[str, Any]) -> list[Path]:
    """Write the report of the values of `view`, see `write`."""
    markdown = _environment().get_template("report.md").render(values)
    texts = {REPORT: page(values), MARKDOWN: markdown, **plots(values["summary"], values["pictures"])}
    for name, text in texts.items():
        with atomic_path(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        send(folder / name)
    return [folder / name for name in texts]


def page(values: dict[str, Any], version: str = "") -> str:
    """Return the page of the values of `view`; with a version, it reloads when its server has another one."""
    return _environment().get_template("report.html").render(values, version=version)


def _environment() -> Environment:
    environment = page_environment()
    environment.filters |= {"cell": markdown_cell, "fence": markdown_fence, "code": markdown_code}
    environment.filters |= {"html": as_html, "markdown": as_markdown, "themed": themed}
    environment.globals |= {"color_variables": color_variables, "printed_rows": PRINTED}
    environment.globals |= {"script": script, "script_digest": script_digest}
    return environment


def page_environment(**options: Any) -> Environment:
    """Return the Jinja environment of our templates, which escapes texts in HTML."""
    loader, escape = PackageLoader("searches.showing", "."), select_autoescape(["html"])
    return Environment(loader=loader, autoescape=escape, trim_blocks=True, lstrip_blocks=True, **options)


def plots(summary: Summary, pictures: Mapping[str, Picture | None]) -> dict[str, str]:
    """Return the plots of the Markdown as SVG, by file name."""
    drawn = {"curves.svg": curves(summary), "front.svg": front(summary)}
    drawn |= {f"{name}.svg": picture.svg for name, picture in pictures.items() if picture}
    return {name: svg for name, svg in drawn.items() if svg}


def pictures_of(summary: Summary) -> dict[str, Picture | None]:
    """Return the pictures that the page and its Markdown share, by name."""
    return {
        "answer": answer_picture(summary),
        "expected": expected_picture(summary),
        "intervals": intervals(summary),
        "parallel": parallel(summary),
    }


def view(summary: Summary) -> dict[str, Any]:
    """Return what the templates show: words, tables and pictures; facts that the summary lacks are left out."""
    summary = Summary.model_validate(all_visible(summary.model_dump()))
    tables = {name: table(summary) for name, table in TABLES.items()}
    tables = {name: table for name, table in tables.items() if table.rows or name in ("trials", "environment")}
    shown = {"front": bool(summary.pareto), "gains": "gains" in tables, "metrics": "reliability" in tables}
    return {
        "summary": summary,
        "sections": [item for item in SECTIONS.items() if shown.get(item[0], True)],
        "judged_by": _judged_by(summary),
        "numbers": numbers(summary.answer),
        "notes": [*summary.answer.notes, *notes(summary)],
        "pictures": pictures_of(summary),
        "tables": tables,
        "curves": curve_pictures(summary),
        "fronts": front_pictures(summary),
        "examples": examples(summary),
        "trials": trial_facts(summary),
    }


def notes(summary: Summary) -> list[str]:
    """Return warnings about the scores: a smoke test, stand-ins, unfinished trials."""
    warnings = []
    if summary.smoke:
        warnings.append("This was a smoke test on a few rows: its scores mean nothing.")
    if summary.model_is_stand_in:
        warnings.append(f"The model is a stand-in: {summary.model}. Its scores say nothing about the real one.")
    if summary.origin and summary.origin.stand_in:
        warnings.append(f"The data is a stand-in: {summary.data['data']}.")
    critics = dict.fromkeys(pairs.stand_in for pairs in summary.pairs.values() if pairs.stand_in)
    warnings += [f"The critic of the generated pairs was {why}." for why in critics]
    if unfinished := summary.counts.get("unfinished"):
        warnings.append(f"{count(unfinished, 'trial')} had not ended when this was written.")
    return warnings


def _judged_by(summary: Summary) -> str:
    costs = f", and {', '.join(map(words, summary.costs))}" if summary.costs else ""
    method = summary.method
    algorithm = f" Sampler: {method.sampler}; scheduler: {method.scheduler}." if method else ""
    limits = f" The winner must keep {' and '.join(method.limits)}." if method and method.limits else ""
    wanted = f"{summary.direction.wanted} is better"
    return f"Compared by {words(summary.objective)} ({wanted}){costs}.{limits}{algorithm}"
