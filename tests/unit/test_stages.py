"""Which first stages a search trains before its trials."""

import pytest

from gpt2core.pretrain_stage import first_stage
from searches.deciding.comparing import Comparing
from searches.lora_rank import SEARCH
from searches.plan import make_plan
from searches.pretraining import SEARCH as PRETRAINING
from searches.question import Search
from searches.stages import shared_stages

POEMS = {"pretrain": "poems", "pretrain_epochs": 1}


def test_all_trials_of_a_search_share_the_first_stage_that_is_set() -> None:
    plan = make_plan(SEARCH, "quick", settings=POEMS)
    (stage,) = shared_stages(plan, nodes=1)
    assert (stage.task, stage.epochs) == ("poems", 1)
    assert stage == first_stage(plan.config(plan.search.reference))


def test_searched_first_stages_are_shared_by_the_trials_that_are_expected_to_have_them() -> None:
    """24 trials: 4 of the 5 known points and about half of the others start from poems, each with one of three rates."""
    plan = make_plan(PRETRAINING, "study")
    stages = shared_stages(plan, nodes=1)
    assert {stage.task for stage in stages} == {"poems"}
    assert {1e-5} <= {stage.lr for stage in stages} <= {1e-5, 1e-4, 1e-3}, (
        "the study's rate is that of two known points"
    )
    many = shared_stages(make_plan(PRETRAINING, "study", trials=96), nodes=1)
    assert {stage.lr for stage in many} == {1e-5, 1e-4, 1e-3}
    assert len(many) == 6
    assert len(shared_stages(plan, nodes=8)) == 0, "each node would train all of them for less than two trials"


@pytest.mark.parametrize("search", [SEARCH, PRETRAINING], ids=["no stages", "each of one trial"])
def test_trials_without_a_common_first_stage_share_none(search: Search) -> None:
    assert shared_stages(make_plan(search, "quick"), nodes=1) == []


def test_each_fold_of_a_round_has_a_first_stage_of_its_own() -> None:
    plan = make_plan(SEARCH, "quick", settings={"pretrain": "sonnet"}, comparing=Comparing(folds=2))
    assert {stage.fold for stage in shared_stages(plan, nodes=1)} == {1, 2}
