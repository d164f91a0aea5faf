"""The contract of every entry of COMBINATIONS, the ways to combine several tasks in a step."""

import numpy as np
import pytest
import torch

from gpt2core.multitask.combining import COMBINATIONS
from gpt2core.testing.contract import check_keys


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_is_described_and_its_keys_have_one_meaning(name: str) -> None:
    entry = COMBINATIONS[name]
    check_keys(entry)
    assert entry.summary
    assert entry.shares or not (entry.by_task or entry.samples), "separate models have no joint gradient"
    if entry.weigh:
        weights = entry.weigh(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
        assert weights.shape == (3,)
        assert weights.min() > 0
    if entry.project:
        alike = torch.ones(3, 5)
        torch.testing.assert_close(entry.project(alike, np.random.default_rng(0)), alike.sum(dim=0))
