"""Configurations: every wrong value names its key, its value and its rule."""

import pickle

import pytest
from hypothesis import example, given, strategies

from gpt2core import errors
from gpt2core.config import RunConfig, parse_blocks
from gpt2core.errors import ConfigError
from gpt2core.identity import identity


@pytest.mark.parametrize(("values", "message"), [
    ({"rank": 0}, "The value of `rank` is 0, but must be >= 1"),
    ({"lr": -1}, "The value of `lr` is -1, but must be > 0"),
    ({"targets": "qvk"}, "The value of `targets` is 'qvk', but must be 'qkv', 'qkv.dense' or 'all'"),
    ({"learning_rat": 1}, "Unknown key `learning_rat`"),
    ({"batchsize": 1}, "Unknown key `batchsize`: did you mean `batch_size`?"),
    ({"lr": float("inf")}, "The value of `lr` is inf, but must be a finite number"),
    ({"alpha": "3r"}, "The value of `alpha` is '3r', but must be a number, or be 'r' or '2r'$"),
    ({"dora": "perhaps"}, "The value of `dora` is 'perhaps', but must be true or false$"),
    ({"task": 1}, "The value of `task` is 1, but must be text$"),
    ({"class_names": ["a", 2]}, "A value in `class_names` is 2, but must be text$"),
    ({"lr": "fast"}, "The value of `lr` is 'fast', but must be a number"),
    ({"fold": 1}, "The value of `fold` is 1, but must be at most `folds`, which is 1 and must be >= 2"),
    ({"folds": 3, "fold": 4}, "The value of `fold` is 4, but must be at most `folds`, which is 3 and must be >= 2"),
    ({"scored_on": "folds"}, "The value of `scored_on` is 'folds', but must be 'dev' if `folds` is 1"),
    (
        {"folds": 3, "scored_on": "folds", "dev_part": "search"},
        "The value of `dev_part` is 'search', but must be 'all'",
    ),
    ({"judged": True}, "The value of `judged` is True, but no text is left to judge: set `dev_part` to 'search'"),
    (
        {"task": "paraphrase", "pairs": "/p", "folds": 2},
        "The value of `folds` is 2, but must be 1 with added pairs",
    ),
])  # fmt: skip
def test_wrong_values_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        RunConfig.of(values)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [("all", [0, 1, 2, 3, 4]), ("upper-half", [2, 3, 4]), ("lower-half", [0, 1]), ("1-2,4", [1, 2, 4])],
)
def test_block_names(spec: str, blocks: list[int]) -> None:
    assert parse_blocks(spec, 5) == blocks


@pytest.mark.parametrize("spec", ["0-5", "7", "x", "2-1", "", "none", "1-", "0,7", "0-999999999999999"])
def test_blocks_that_there_are_not(spec: str) -> None:
    with pytest.raises(ConfigError, match="The value of `blocks` is"):
        parse_blocks(spec, 5)


def test_half_of_one_block_is_none() -> None:
    with pytest.raises(ConfigError, match="'lower-half', but must name blocks 0 to 0"):
        parse_blocks("lower-half", 1)


@given(strategies.text("0123456789²٣-, ax", max_size=8))
@example("²")
@example("0-²")
def test_any_block_specification_gives_blocks_of_the_model_or_an_explanation(spec: str) -> None:
    try:
        blocks = parse_blocks(spec, 5)
    except ConfigError as error:
        assert f"The value of `blocks` is {spec!r}, but must" in str(error)  # noqa: PT017
    else:
        assert blocks
        assert blocks == sorted(set(blocks) & set(range(5)))


def test_identity_is_what_decides_the_result() -> None:
    lora = RunConfig(adapter="lora", rank=16, alpha="2r")
    assert identity(lora) == identity(lora.but(alpha=32.0))
    assert identity(lora) != identity(lora.but(alpha="r"))
    full = RunConfig(adapter="full")
    assert identity(full) == identity(full.but(rank=99))
    pairs = RunConfig(task="paraphrase", pairs="/pairs", pretrain="rewriting")
    assert identity(pairs) != identity(pairs.but(tau=0.5))
    assert identity(pairs) != identity(pairs.but(kl_weight=0.5))
    none = pairs.but(pairs_examples=0)
    assert (
        identity(none)
        == identity(none.but(tau=0.5, kl_weight=0.5, pretrain_lr=0.1))
        == identity(RunConfig(task="paraphrase"))
    )
    assert identity(full) == identity(full.but(tau=0.5, kl_weight=0.5, contrastive_weight=0.5))
    greedy = RunConfig(decoder="greedy")
    assert identity(greedy) == identity(greedy.but(top_p=0.5, top_k=3))
    assert "objective" not in identity(full)
    assert identity(full).keys().isdisjoint({"dev_part", "folds", "fold", "scored_on", "judged"})
    judged = {"folds": 3, "fold": 2, "scored_on": "folds", "judged": True}
    assert identity(full.but(**judged)) == identity(full) | judged
    assert identity(full.but(dev_part="search")) == identity(full) | {"dev_part": "search"}
    assert identity(full.but(objective="chrf_whole")) == identity(full) | {"objective": "chrf_whole"}


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in dir(errors) if name.endswith("Error")])
def test_errors_survive_pickling(kind: type[Exception]) -> None:
    assert str(pickle.loads(pickle.dumps(kind("a message")))) == "a message"
