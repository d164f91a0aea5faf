"""What `--json` prints: the plan and the results of a search as JSON values. docs/reference/json.md describes them."""

from typing import Any

from gpt2core.storage import address
from searches.options import Options
from searches.planning.forecast import seconds_left
from searches.planning.plan_table import trials_done
from searches.result_files import LEDGER
from searches.running.ledger import State, status_of
from searches.running.quantities import Forecast
from searches.showing.answers import OUTCOMES
from searches.showing.facts import commands, space_of
from searches.showing.report_tables import ONE_SEED, OVER_TEXTS
from searches.showing.screen import plan_texts, resumed_text
from searches.summary import Summary, TrialRow, Verdict

Json = dict[str, Any]


def answer_json(answer: Verdict) -> Json:
    """Return an answer as in summary.json, with its outcome in words."""
    return {"outcome_text": OUTCOMES[answer.outcome], **answer.model_dump(mode="json")}


def results_json(options: Options, state: State, summary: Summary, now: float) -> Json:
    """Return the results of a search so far."""
    folder = options.results_folder
    done, planned = trials_done(options.plan, state)
    status = status_of(folder / LEDGER, state)
    return {
        "name": options.name,
        "status": status,
        "progress": {
            "trials_done": done,
            "trials_planned": planned,
            "seconds_left": seconds_left(options.plan, state, now) if status == "running" else None,
        },
        "question": summary.question,
        "answer": answer_json(summary.answer),
        "trials": [_trial_json(row, summary) for row in summary.trials],
        "trials_note": (OVER_TEXTS if summary.by_texts else ONE_SEED) + " Only `answer` compares settings.",
        **_about(options),
        "data": summary.data.get("data"),
        "warm_start": summary.warm_start and summary.warm_start.model_dump(mode="json"),
        "baselines": {name: row.model_dump(mode="json") for name, row in summary.baselines.items()},
        "forecast": [row.model_dump(mode="json") for row in summary.forecast],
        "budget": summary.budget.model_dump(mode="json"),
        "files": {path.name: str(address(path)) for path in sorted(folder.glob("*")) if path.is_file()},
        "commands": commands(options),
    }


def plan_json(
    options: Options, resources: str, forecast: Forecast | str, earlier: State | None, data: str | None
) -> Json:
    """Return what would run and what it would take; `forecast` may be the reason why that is unknown.

    `earlier` is the state of the search that would be resumed, `data` describes the data, None if it is not known.
    """
    plan = options.plan
    unknown = {"forecast": None, "forecast_notes": [forecast]}
    return {
        "name": options.name,
        "question": plan.search.question,
        **_about(options),
        "data": data,
        "trials": plan.trials,
        "warm_start": [start.model_dump() for start in plan.warm_start],
        "first_points": [
            {"origin": plan.origin(place, point), "point": point} for place, point in enumerate(plan.known_points())
        ],
        "text": [*plan_texts(plan), resources, *([resumed_text(plan, earlier)] if earlier else [])],
        "resumes": earlier is not None,
        **(unknown if isinstance(forecast, str) else _forecast_json(forecast)),
        "digest": plan.digest,
        "folder": str(address(options.results_folder)),
    }


def _forecast_json(forecast: Forecast) -> Json:
    rows = [row.model_dump(mode="json", exclude={"actual"}) for row in forecast.rows()]
    return {"forecast": rows, "forecast_notes": forecast.notes}


def _about(options: Options) -> Json:
    """Return the settings of a search."""
    plan = options.plan
    return {
        "task": plan.task,
        "model": None if plan.program else plan.config(plan.search.reference).model,
        "program": plan.program and plan.program.model_dump(mode="json", exclude={"folder"}),
        "objective": {
            "name": plan.objective,
            "direction": str(plan.direction),
            "margin": plan.margin,
            "unit": plan.metric.unit,
        },
        "space": {key: space.model_dump(mode="json") for key, space in space_of(plan).items()},
        "fixed": plan.fixed_read,
        "method": plan.method.to_dict(),
    }


def _trial_json(row: TrialRow, summary: Summary) -> Json:
    values = row.model_dump(
        include={"id", "status", "reason", "origin", "of", "point", "score", "best_epoch", "epochs"}
    )
    return values | {end: row.metrics.get(f"{summary.objective}_{end}") for end in ("low", "high")}
