"""The stored view of a search's trials: which keys its chart can show."""

import pytest

from searches.plan import make_plan
from searches.question import search_of
from searches.running.mlflow_view import shared_view


@pytest.mark.parametrize(("search", "keys"), [
    ("lora_rank", ["rank", "lr", "batch_size"]),  # alpha is a number or a word
    ("decoding", ["decoder", "repetition_penalty"]),  # other keys are read by some decoders only
])  # fmt: skip
def test_the_chart_shows_the_keys_that_all_trials_have_in_one_type(search: str, keys: list[str]) -> None:
    plan = make_plan(search_of(search), "quick")
    view = shared_view(plan, "tags.trial != ''", "best/score")
    parallel, curves = view["compareRunCharts"]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (keys, ["best/score"])
    assert curves["metricKey"] == plan.objective
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in (parallel, curves)} == {section["uuid"]}
    assert len(view["selectedColumns"]) == len(plan.space) + 3
