"""The order in which training examples enter, against a slow, obvious version."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2core.config import RunConfig
from gpt2core.data.order import epoch_sizes, training_order
from gpt2core.data.tokens import sample_order

CURRICULUM = RunConfig(task="paraphrase", pairs="/pairs", tau_rule="curriculum", batch_size=1)


def admitted(epoch: int, config: RunConfig, own: int, added: int) -> set[int]:
    """What an epoch trains on: of the examples that growth allows, all own ones, and the added ones above the threshold."""
    order, _ = training_order(config.but(tau_rule="fixed"), own, added)
    grown = order[: epoch_sizes(config, len(order))[epoch - 1]].tolist()
    best = math.ceil(added * epoch / config.epochs)
    return {place for place in grown if place < own or place - own < best}


@settings(max_examples=60, deadline=None)
@given(
    own=st.integers(1, 40), added=st.integers(0, 30), epochs=st.integers(1, 7), growth=st.sampled_from([1.0, 1.5, 2.0]),
    sample=st.none() | st.integers(1, 50),
)  # fmt: skip
def test_a_curriculum_admits_the_best_first(
    own: int, added: int, epochs: int, growth: float, sample: int | None
) -> None:
    config = CURRICULUM.but(epochs=epochs, growth=growth, train_examples=sample)
    order, sizes = training_order(config, own, added)
    for epoch, size in enumerate(sizes, start=1):
        assert set(order[:size].tolist()) == admitted(epoch, config, own, added)
    assert len(order) == sizes[-1] == min(own, sample or own) + added, "the last epoch has all"


@pytest.mark.parametrize("sample", [None, 12])
def test_the_sample_is_the_same_with_added_examples(sample: int | None) -> None:
    config = CURRICULUM.but(tau_rule="fixed", train_examples=sample)
    alone, _ = training_order(config, 40, 0)
    order, sizes = training_order(config, 40, 20)
    assert alone.tolist() == sample_order(40)[:sample].tolist()
    assert sorted(order.tolist()) == sorted([*alone.tolist(), *range(40, 60)])
    assert set(sizes) == {len(order)}
    halves = np.array_split(order >= 40, 2)
    assert all(half.any() and not half.all() for half in halves), "they are mixed"


def test_real_pairs_have_no_curriculum() -> None:
    config = CURRICULUM.but(added_pairs="real", pairs_examples=5)
    assert training_order(config, 10, 5)[1] == training_order(config.but(tau_rule="fixed"), 10, 5)[1]
