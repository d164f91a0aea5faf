"""GPT2 against transformers' GPT2LMHeadModel on the same random weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from gpt2core.config import ModelConfig
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2, IGNORE, KVCache
from gpt2core.testing import toys
from gpt2core.weights import save_model

SHAPES = [
    toys.SHAPE,
    ModelConfig(vocab_size=97, n_positions=64, n_embd=48, n_layer=3, n_head=3),
    ModelConfig(vocab_size=501, n_positions=128, n_embd=64, n_layer=4, n_head=1),
]
PADDINGS = ["none", "right", "left"]


def pair(shape: ModelConfig, tmp_path: Path) -> tuple[GPT2, GPT2LMHeadModel]:
    ours = toys.model(seed=1, shape=shape)
    save_model(ours, tmp_path / "hf")
    return ours, GPT2LMHeadModel.from_pretrained(tmp_path / "hf", attn_implementation="eager").train(False)


def batch(shape: ModelConfig, padding: str, width: int = 20) -> tuple[Tensor, Tensor]:
    input_ids = torch.randint(shape.vocab_size, (3, width), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(input_ids)
    for row, hidden in enumerate((0, 3, 11)):
        if padding == "right" and hidden:
            mask[row, -hidden:] = 0
        if padding == "left":
            mask[row, :hidden] = 0
    return input_ids, mask


def close(ours: Tensor, theirs: Tensor, mask: Tensor) -> None:
    assert (ours - theirs)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.n_layer}x{shape.n_embd}")
@torch.no_grad()
def test_logits_and_hidden_states_equal_transformers(shape: ModelConfig, padding: str, tmp_path: Path) -> None:
    ours, theirs = pair(shape, tmp_path)
    input_ids, mask = batch(shape, padding)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(input_ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    hidden = ours(input_ids, None if padding == "none" else mask)
    close(hidden, expected.hidden_states[-1], mask)
    close(ours.logits(hidden), expected.logits, mask)


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("chunks", [[20], [13, 1, 1, 5], [1] * 20], ids=str)
@torch.no_grad()
def test_the_cache_gives_what_one_pass_gives(chunks: list[int], padding: str, tmp_path: Path) -> None:
    ours, theirs = pair(toys.SHAPE, tmp_path)
    input_ids, mask = batch(toys.SHAPE, padding)
    expected = theirs(input_ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    cache = KVCache(ours, 3, 20)
    parts = zip(input_ids.split(chunks, dim=1), mask.split(chunks, dim=1), strict=True)
    hidden = torch.cat([ours(ids, None if padding == "none" else real, cache) for ids, real in parts], dim=1)
    close(ours.logits(hidden), expected, mask)


def test_loss_is_the_cross_entropy_without_padding() -> None:
    model = toys.model()
    input_ids, mask = batch(toys.SHAPE, "right")
    labels = input_ids.where(mask.bool(), torch.tensor(IGNORE))
    logits = model.logits(model(input_ids))[:, :-1].flatten(0, 1)
    expected = functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(model.losses(model(input_ids), labels).sum(), expected)
    other = input_ids.where(mask.bool(), torch.tensor(5))
    torch.testing.assert_close(model.losses(model(other), labels).sum(), expected)


def test_a_context_beyond_n_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="The context has 300 tokens, but must have at most n_positions, 256"):
        toys.model()(torch.zeros(1, 300, dtype=torch.long))
    with pytest.raises(ConfigError, match="The context has 257 tokens, but must have at most n_positions, 256"):
        KVCache(toys.model(), 1, 257)
