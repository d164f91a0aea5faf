"""Ranks by block: patterns of equal sums, one line for wrong ones, and searches at equal numbers of parameters."""

import pytest
from hypothesis import given, strategies
from peft import LoraConfig, inject_adapter_in_model

from gpt2core.adapters.lora import TARGETS, count_lora, lora, lora_layers
from gpt2core.adapters.ranks import SHAPES, parse_ranks
from gpt2core.errors import ConfigError
from gpt2core.identity import identity, keys_read
from gpt2core.model import without_weights
from gpt2core.testing import toys
from searches.domains import Choice
from searches.layer_rank import SEARCH
from searches.plan import make_plan
from searches.planning.checking import check


@pytest.mark.parametrize("shape", SHAPES)
@given(rank=strategies.integers(1, 64), count=strategies.integers(1, 48))
def test_a_shape_shares_the_sum_of_uniform_ranks_among_the_blocks(shape: str, rank: int, count: int) -> None:
    blocks = range(3, 3 + count)
    ranks = parse_ranks(shape, rank, blocks)
    assert list(ranks) == list(blocks)
    assert sum(ranks.values()) == rank * count
    assert min(ranks.values()) >= 0


@pytest.mark.parametrize(("spec", "ranks"), [
    ("uniform", [8, 8, 8, 8]), ("rising", [3, 6, 10, 13]), ("falling", [13, 10, 6, 3]), ("lower-half", [16, 16, 0, 0]),
    ("upper-half", [0, 0, 16, 16]), ("4,4,8,16", [4, 4, 8, 16]), (" 0, 0,0 ,9", [0, 0, 0, 9]), ("0-1:4,3:12", [4, 4, 0, 12]),
    ("upper-half:5", [0, 0, 5, 5]),
])  # fmt: skip
def test_patterns(spec: str, ranks: list[int]) -> None:
    assert list(parse_ranks(spec, 8, range(4)).values()) == ranks


@pytest.mark.parametrize("spec", [
    "", "rissing", "8,8", "8,8,8,8,8", "8,8,8,-8", "0,0,0,0", "4:8", "0:8,0:8", "0:8,8", "0:", ":8", "1:2:3", "8,8,8,999999",
    "8.5,8,8,8", "²,1,1,1",
])  # fmt: skip
def test_a_wrong_pattern_is_refused_in_one_line(spec: str) -> None:
    rule = "but must be uniform, rising, .*, a rank for each of the 4 adapted blocks, such as 8,8,8,8, or some of these blocks"
    with pytest.raises(ConfigError, match=rule) as caught:
        parse_ranks(spec, 8, range(4))
    assert "\n" not in str(caught.value)


def test_ranks_are_those_of_pefts_rank_pattern() -> None:
    """The scale of each block is alpha / its rank, which peft does not divide anew."""
    config = toys.RUN.but(adapter="lora", ranks="2,5", targets="all")
    theirs = LoraConfig(r=2, lora_alpha=32, target_modules=TARGETS["all"], rank_pattern={r"blocks\.1\..*": 5})
    ours, other = toys.model().double(), toys.model().double()
    lora(ours, config)
    inject_adapter_in_model(theirs, other)
    for name, layer in lora_layers(ours):
        peer = other.get_submodule(name)
        assert (len(layer.lora_A.weight), layer.scale) == (peer.r["default"], peer.scaling["default"]), name
    assert count_lora(without_weights(toys.SHAPE), config) == sum(
        p.numel() for name, p in ours.named_parameters() if ".lora_" in name
    )


def test_a_block_of_rank_0_has_no_pair() -> None:
    model = toys.model()
    lora(model, toys.RUN.but(adapter="lora", ranks="1:4"))
    assert {name.split(".")[1] for name, _ in lora_layers(model)} == {"1"}


def test_the_identity_of_uniform_ranks_is_that_before_there_were_others() -> None:
    plain = toys.RUN.but(adapter="lora")
    assert "ranks" not in identity(plain)
    assert identity(plain.but(ranks="rising")) not in (identity(plain), identity(plain.but(ranks="falling")))
    assert "rank" in keys_read(plain.but(ranks="rising"))
    assert "rank" not in keys_read(plain.but(ranks="4,12"))


def test_a_search_at_equal_parameters_refuses_other_ranks() -> None:
    equal = make_plan(SEARCH, "quick", domains={"ranks": Choice("uniform", "0,4,12,16")})
    check(equal)
    unequal = make_plan(SEARCH, "quick", domains={"ranks": Choice("uniform", "0,4,12,17")})
    rule = "The setting .*ranks 0,4,12,17, .* keeps 38,016 parameters, but must keep 36,864 like the reference"
    with pytest.raises(ConfigError, match=rule):
        check(unequal)
    with pytest.raises(ConfigError, match="keeps 18,432 parameters, but must keep 36,864"):
        check(make_plan(SEARCH, "quick", domains={"rank": Choice(4, 8)}))
