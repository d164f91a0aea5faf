"""LoRA equals peft's."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from gpt2core.adapters.lora import TARGETS, lora, lora_layers, merge_lora
from gpt2core.model import GPT2
from gpt2core.testing import toys

IDS = torch.arange(30).view(2, 15)
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"rslora": True}, "dropout": {"lora_dropout": 0.3}, "dora": {"dora": True},
    "dora, dropout": {"dora": True, "lora_dropout": 0.3},
}  # fmt: skip


def both(keys: dict[str, Any]) -> tuple[GPT2, GPT2]:
    """Return a model with our LoRA and one with peft's, from the same seed, in float64."""
    config = toys.RUN.but(adapter="lora", rank=3, targets="all", blocks="1", **keys)
    theirs = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=TARGETS[config.targets],
        layers_to_transform=[1],
        layers_pattern="blocks",
        use_rslora=config.rslora,
        use_dora=config.dora,
    )
    ours, other = toys.model().double(), toys.model().double()
    torch.manual_seed(5)
    lora(ours, config)
    torch.manual_seed(5)
    inject_adapter_in_model(theirs, other)
    return ours, other


def pairs(model: GPT2) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters by name, without peft's additions to the names."""
    named = {name.replace(".default", ""): p for name, p in model.named_parameters() if ".lora_" in name}
    return {name.replace("_magnitude_vector.weight", "_magnitude"): parameter for name, parameter in named.items()}


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_pairs_start_and_train_like_pefts(keys: dict[str, Any]) -> None:
    ours, other = both(keys)
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == set(pairs(ours))
    for _ in range(3):
        our_pairs, their_pairs = pairs(ours), pairs(other)
        assert our_pairs.keys() == their_pairs.keys()
        for name, parameter in our_pairs.items():
            torch.testing.assert_close(parameter, their_pairs[name], rtol=1e-10, atol=1e-10, msg=name)
        losses = []
        for model, parameters in ((ours, our_pairs), (other, their_pairs)):
            torch.manual_seed(7)
            loss = model.losses(model.train()(IDS), IDS).sum()
            loss.backward()
            losses.append(loss.detach())
            with torch.no_grad():
                for parameter in parameters.values():
                    parameter -= 1e-2 * parameter.grad  # type: ignore[operator]
                    parameter.grad = None
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_merging_does_not_change_a_shared_base(keys: dict[str, Any]) -> None:
    model, _ = both(keys)
    for _, layer in lora_layers(model):
        layer.lora_B.weight.normal_()
    bases = {name: (layer.base.weight.data, layer.base.weight.clone()) for name, layer in lora_layers(model)}
    expected = model.train(False)(IDS)
    torch.testing.assert_close(merge_lora(model)(IDS), expected, rtol=1e-10, atol=1e-10)
    assert bases
    assert all(torch.equal(shared, kept) for shared, kept in bases.values())
