"""The report of a search: one HTML file that needs no other, and the same as Markdown, both from the summary alone."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from gpt2core.errors import all_visible
from gpt2core.files import atomic_path
from gpt2core.storage import send
from searches.formatting import count
from searches.showing.answer_picture import answer_picture, expected_picture
from searches.showing.answers import claim_and_rest, numbers
from searches.showing.markdown import markdown_cell, markdown_code, markdown_fence
from searches.showing.plots import curve_pictures, curves, front, front_pictures, intervals, parallel
from searches.showing.report_tables import (
    answer_grid,
    answer_pairs_grid,
    baselines_grid,
    cost_grid,
    effects_grid,
    facts_grid,
    failures_grid,
    front_grid,
    pairs_grid,
    plan_grid,
    reliability_grid,
    replicates_grid,
    space_grid,
    time_grid,
    trials_grid,
)

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

Summary = dict[str, Any]


def write(folder: Path, summary: Summary) -> list[Path]:
    """Write the report of a search into its results folder, with the plots of its Markdown; return its files, the page first."""
    environment = Environment(
        loader=PackageLoader("searches.showing", "."),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": markdown_cell, "fence": markdown_fence, "code": markdown_code}
    summary = all_visible(summary)
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
    grids = {
        "answer": answer_grid(summary),
        "pairs_compared": answer_pairs_grid(summary),
        "trials": trials_grid(summary),
        "baselines": baselines_grid(summary),
        "replicates": replicates_grid(summary),
        "space": space_grid(summary),
        "effects": effects_grid(summary),
        "reliability": reliability_grid(summary),
        "front": front_grid(summary),
        "failures": failures_grid(summary),
        "cost": cost_grid(summary),
        "plan": plan_grid(summary),
        "time": time_grid(summary),
        "pairs": pairs_grid(summary),
        "environment": facts_grid({**summary.get("environment", {}), **_versions(summary)}, "what", "value"),
    }
    shown = {"front": bool(summary["pareto"]), "metrics": grids["reliability"] is not None}
    return {
        "summary": summary,
        "sections": [item for item in SECTIONS.items() if shown.get(item[0], True)],
        "judged_by": _judged_by(summary),
        "answer": answer(summary),
        "notes": [*summary["answer"]["notes"], *notes(summary)],
        "pictures": {"answer": answer_picture(summary), "expected": expected_picture(summary)},
        "intervals": intervals(summary),
        "grids": grids,
        "curves": curve_pictures(summary),
        "parallel": parallel(summary),
        "effects_why": (summary.get("effects") or {}).get("why", "Nothing was recorded to tell it from."),
        "fronts": front_pictures(summary),
        "samples": samples(summary),
        "commands": summary.get("commands", {}),
    }


def answer(summary: Summary) -> dict[str, Any]:
    """The answer in parts: its claim, what it rests on, and what it holds for."""
    found = summary["answer"]
    claim, rest = claim_and_rest(found["text"])
    return {
        "decided": found["decided"],
        "claim": claim,
        "rest": rest,
        "numbers": numbers(found),
        "scope": found["scope"],
        "test": (summary.get("test") or {}).get("text", ""),
    }


def notes(summary: Summary) -> list[str]:
    """What takes weight from the scores, said plainly: a smoke test, a stand-in, an unfinished search."""
    said = []
    if summary.get("smoke"):
        said.append("This was a smoke test, on a few rows: its scores mean nothing.")
    if "stand-in" in summary["model"]:
        said.append(f"A stand-in model took part: {summary['model']}. Its scores say nothing of the real one.")
    if "stand-in" in summary["data"].get("data", ""):
        said.append(f"The data is a stand-in: {summary['data']['data']}.")
    said += [
        f"The critic of the generated pairs was {why}."
        for why in dict.fromkeys(made["stand_in"] for made in (summary.get("pairs") or {}).values())
        if why
    ]
    if summary["counts"].get("unfinished"):
        said.append(f"{count(summary['counts']['unfinished'], 'trial')} had not ended when this was written.")
    return said


def samples(summary: Summary) -> list[dict[str, Any]]:
    """Texts by example: what all trials share (what was given, the gold), then what each of them wrote."""
    by_trial = summary.get("samples") or {}
    examples: dict[str, dict[str, dict[str, str]]] = {}
    for name, texts in by_trial.items():
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
    best, reference = ((summary.get(which) or {}).get("id") for which in ("best", "reference"))
    roles = {"winner": summary["answer"]["winner"], "best score": best, "reference": reference}
    return ", ".join([f"trial {name}", *(word for word, of in roles.items() if of == name)])


def _judged_by(summary: Summary) -> str:
    wanted = "the higher the better" if summary.get("direction") != "min" else "the lower the better"
    costs = f", and {', '.join(cost.replace('_', ' ') for cost in summary['costs'])}" if summary["costs"] else ""
    method = summary.get("method") or {}
    how = f" Sampler {method['sampler']}, scheduler {method['scheduler']}." if method else ""
    limits = f" The winner keeps {' and '.join(method['limits'])}." if method.get("limits") else ""
    return f"Judged by {summary['objective'].replace('_', ' ')} ({wanted}){costs}.{limits}{how}"


def _versions(summary: Summary) -> dict[str, str]:
    return dict(summary.get("versions") or {})
