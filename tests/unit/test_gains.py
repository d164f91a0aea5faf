"""The gain of each task of a search over runs of several, relative to separate models."""

import math

import pytest

from gpt2core.tasks import TASKS
from searches.deciding.gains import gains
from searches.showing.report import view
from searches.summary import TrialRow
from tests.summaries import summary, typed

METRICS = {name: TASKS["multi"].metrics[name] for name in ("sonnet/dev_loss", "cfimdb/accuracy")}
OBJECTIVES = {name.partition("/")[0]: metric for name, metric in METRICS.items()}


def trial(name: str, combination: str, dev_loss: float, accuracy: float) -> TrialRow:
    metrics = {"sonnet/dev_loss": dev_loss, "cfimdb/accuracy": accuracy}
    return TrialRow(id=name, status="completed", config={"combination": combination}, metrics=metrics)


SEPARATE = [trial("0000", "separate", 4.0, 50.0), trial("0001", "separate", 3.0, 40.0)]


def test_a_gain_is_relative_to_the_best_separate_model_of_each_task() -> None:
    rows = {row.trial: row for row in gains([*SEPARATE, trial("0002", "sum", 3.5, 55.0)], OBJECTIVES)}
    ratios = (math.exp(3.0) / math.exp(3.5), 55 / 50)
    assert [rows["0002"].tasks[task] for task in ("sonnet", "cfimdb")] == pytest.approx([100 * (r - 1) for r in ratios])
    assert rows["0002"].mean == pytest.approx(100 * (math.sqrt(ratios[0] * ratios[1]) - 1))
    assert rows["0002"].worst == pytest.approx(100 * (ratios[0] - 1))
    assert rows["0000"].tasks["cfimdb"] == rows["0001"].tasks["sonnet"] == 0
    assert list(rows) == ["0001", "0002", "0000"], "by their mean"


def test_there_are_no_gains_without_separate_models_and_none_of_unscored_trials() -> None:
    unscored = TrialRow(id="0003", status="failed", config={"combination": "sum"})
    assert gains([trial("0002", "sum", 3.5, 55.0), unscored], OBJECTIVES) == []
    assert [row.trial for row in gains([*SEPARATE, unscored], OBJECTIVES)] == ["0001", "0000"]


def test_the_report_has_the_front_of_the_tasks_and_their_gains() -> None:
    shown = gains([*SEPARATE, trial("0002", "sum", 3.5, 55.0)], OBJECTIVES)
    found = summary(gains=[row.model_dump() for row in shown], pareto=["0000", "0001"], task_objectives=list(METRICS))
    for row in found["trials"]:
        row["metrics"] |= {"sonnet/dev_loss": 4.0, "cfimdb/accuracy": 50.0}
    page = view(typed(found))
    assert [picture.alt for picture in page["fronts"]] == [
        "sonnet/dev loss against cfimdb/accuracy; 2 trials are on the Pareto front"
    ]
    assert [column.heading for column in page["tables"]["gains"].columns][:5] == [
        "trial", "sonnet", "cfimdb", "mean", "worst task",
    ]  # fmt: skip
