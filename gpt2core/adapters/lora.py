"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft; the only importer of peft."""

from gpt2core.config import RunConfig, parse_blocks
from gpt2core.model import GPT2

#: Our names of the projections that each choice of `targets` adapts.
TARGETS = {
    "qkv": ["query", "key", "value"],
    "qkv+dense": ["query", "key", "value", "dense"],
    "all": ["query", "key", "value", "dense", "mlp_in", "mlp_out"],
}


def lora(model: GPT2, config: RunConfig) -> None:
    """Add a pair of rank `config.rank` to the target projections of `config.blocks` (default: all); only pairs train.

    The pair starts at zero effect: A is random by torch's global generator, B is zero. Scale: lora_alpha / rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    spec = "all" if config.blocks == "default" else config.blocks
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.lora_alpha,  # peft annotates int and computes with any number
            lora_dropout=config.lora_dropout,
            target_modules=TARGETS[config.targets],
            layers_to_transform=parse_blocks(spec, model.config.n_layer),
            layers_pattern="blocks",
        ),
        model,
    )


def merge_lora(model: GPT2) -> GPT2:
    """Fold every LoRA pair of `model` into the projection that it adapts, in place; a plain GPT2 is left."""
    from peft.tuners.lora import LoraLayer

    for block in model.blocks:
        for parent in (block, block.get_submodule("attention")):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    child.merge(safe_merge=True)
                    setattr(parent, name, child.get_base_layer())
    return model
