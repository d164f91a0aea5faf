"""The view of a search's trials that its printed link opens in the MLflow UI: a table, best first, and charts.

MLflow's share button stores such a view as a tag of the experiment. The fields are those of MLflow's user interface.
"""

from typing import Any

from gpt2core.metrics.direction import Direction
from searches.domains import Choice, Domain
from searches.plan import Plan

SECTION = "search"  # of the charts
CHART = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False}


def shared_view(plan: Plan, runs: str, best: str) -> dict[str, Any]:
    """Return the view of the trials that the filter `runs` finds; `best` is the metric that ranks them."""
    return {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": plan.direction is Direction.MIN,
        "selectedColumns": [
            f"metrics.`{best}`",
            *(f"params.`{key}`" for key in plan.space),
            "tags.`status`",
            "tags.`origin`",
        ],
        "compareRunSections": [
            {"uuid": SECTION, "name": "Search", "display": True, "isReordered": True, "columns": 2, "cardHeight": 500}
        ],
        "compareRunCharts": [_parallel_coordinates(plan, best), _curves(plan)],
        "isAccordionReordered": True,  # keeps this section before those of the other metrics
    }


def _parallel_coordinates(plan: Plan, best: str) -> dict[str, Any]:
    """Return a chart of the searched keys and the score.

    MLflow leaves out a trial that lacks a key, or has a word where most have a number, so such keys are left out.
    """
    keys = [key for key, domain in plan.space.items() if _has_one_type(domain) and not plan.conditions.words(key)]
    values = {"selectedParams": keys, "selectedMetrics": [best], "showAllRuns": True}
    return {**CHART, "uuid": "parallel-coordinates", "type": "PARALLEL", **values}


def _has_one_type(domain: Domain) -> bool:
    """Return whether the values are all numbers or all others."""
    kinds = {type(value) in (int, float) for value in domain.values} if isinstance(domain, Choice) else {True}
    return len(kinds) == 1


def _curves(plan: Plan) -> dict[str, Any]:
    """Return a chart of the objective by epoch."""
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric"}
    values = {"metricKey": plan.objective, "selectedMetricKeys": [plan.objective], "lineSmoothness": 0, "range": {}}
    return {**CHART, "uuid": "curves", "type": "LINE", **values, **axes, "useGlobalXaxisKey": False}
