"""The contract of every search script in searches/, recognized by its call of `main`."""

import importlib
from pathlib import Path

import pytest

from gpt2core.config import OWN_TASKS, RunConfig
from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from gpt2core.metrics.comparison import LEAST
from gpt2core.tasks import TASKS
from searches.plan import make_plan
from searches.question import Search, on_own_data, scripts

FOLDER = Path(__file__).parent.parent.parent / "searches"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "main(SEARCH)" in path.read_text())
CASES = [(name, task) for name in SCRIPTS for task in importlib.import_module(f"searches.{name}").SEARCH.tasks]


def search(name: str) -> Search:
    return importlib.import_module(f"searches.{name}").SEARCH


def test_all_scripts_are_tested() -> None:
    expected = {
        "adapters",
        "attention",
        "decoding",
        "learning_rate",
        "lora_rank",
        "multi_task",
        "preferences",
        "pretraining",
        "sentiment",
    }
    assert expected <= set(SCRIPTS)
    assert sorted(scripts()) == SCRIPTS, "the scripts that messages offer"


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_named_after_its_file(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 60
    assert search(name).name == name


@pytest.mark.parametrize("profile", ["quick", "study"])
@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_reference_and_the_points_of_the_study_come_first_and_are_valid(name: str, task: str, profile: str) -> None:
    plan = make_plan(search(name), profile, settings={"task": task})
    metric = TASKS[task].metrics[plan.fixed.get("objective", TASKS[task].objective)]
    assert (plan.objective, plan.direction) == (metric.name, metric.direction)
    points = plan.first_points
    assert len(points) >= 2
    assert points[0] == plan.complete({})
    assert plan.profile.trials > len(points) or profile == "quick"
    runs = [plan.config(point) for point in points]
    assert all(isinstance(run, RunConfig) and run.task == task for run in runs)
    assert len({str(identity(run)) for run in runs}) == len(runs), "two of the first points are the same configuration"


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_on_own_data_or_says_which_searches_do(name: str) -> None:
    original = search(name)
    if not original.own_question:
        with pytest.raises(ConfigError, match=f"The search {name} is about its own data, .*: .*lora_rank"):
            on_own_data(original, "text", "reviews.csv")
        return
    for task in OWN_TASKS:
        if task not in original.own_tasks:
            with pytest.raises(ConfigError, match=f"The search {name} needs --"):
                on_own_data(original, task, "reviews.csv")
            continue
        plan = make_plan(on_own_data(original, task, "reviews.csv"), "quick", settings={"task": task})
        assert "reviews.csv" in plan.search.question
        assert plan.objective == TASKS[task].objective
        assert len({str(identity(plan.config(point))) for point in plan.first_points}) == len(plan.first_points) >= 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_space_has_the_compared_keys(name: str) -> None:
    plan = make_plan(search(name), "study")
    assert plan.space.keys() == {*plan.search.scientific, *plan.search.nuisance}
    quick = make_plan(search(name), "quick")
    assert quick.space.keys() == plan.space.keys() - quick.profile.run.keys()
    assert plan.search.scientific
    assert not plan.search.scientific.keys() & plan.search.nuisance.keys()
    assert not plan.space.keys() & plan.search.fixed.keys()


@pytest.mark.parametrize("profile", ["quick", "study"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_its_factor_gets_equal_numbers_of_trials_and_enough_seeds_to_name_a_winner(name: str, profile: str) -> None:
    plan = make_plan(search(name), profile)
    assert set(plan.search.factor) <= plan.search.scientific.keys()
    assert plan.has_factor == bool(plan.search.factor)
    assert not plan.has_factor or (plan.balanced and plan.compares_each and plan.trials % len(plan.levels) == 0)
    assert plan.design.most >= LEAST
