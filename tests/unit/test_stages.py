"""Which first stage a search trains before its trials."""

from typing import Any

import pytest

from gpt2core.pretrain_stage import first_stage
from searches.deciding.comparing import Comparing
from searches.lora_rank import SEARCH
from searches.plan import make_plan
from searches.pretraining import SEARCH as PRETRAINING
from searches.question import Search
from searches.stages import shared_stage

POEMS = {"pretrain": "poems", "pretrain_epochs": 1}


def test_all_trials_of_a_search_share_the_first_stage_that_is_set() -> None:
    plan = make_plan(SEARCH, "quick", settings=POEMS)
    stage = shared_stage(plan)
    assert stage is not None
    assert (stage.task, stage.epochs) == ("poems", 1)
    assert stage == first_stage(plan.config(plan.search.reference))


@pytest.mark.parametrize(
    ("search", "settings", "folds"),
    [(SEARCH, {}, 1), (PRETRAINING, {}, 1), (SEARCH, {"pretrain": "sonnet"}, 2)],
    ids=["none", "searched", "of each fold"],
)
def test_trials_without_a_common_first_stage_share_none(search: Search, settings: dict[str, Any], folds: int) -> None:
    assert shared_stage(make_plan(search, "quick", settings=settings, comparing=Comparing(folds=folds))) is None
