"""Ways of choosing what trains. To add one: a function of `Adapt`'s signature, and a line in ADAPTERS."""

from collections.abc import Callable

from gpt2core.adapters.freeze import freeze
from gpt2core.adapters.frozen import frozen
from gpt2core.adapters.full import full
from gpt2core.adapters.last_linear import last_linear
from gpt2core.adapters.lora import lora
from gpt2core.config import RunConfig
from gpt2core.lookup import lookup
from gpt2core.model import GPT2

#: Change a model in place so that exactly the adapter's parameters require gradients.
Adapt = Callable[[GPT2, RunConfig], None]

ADAPTERS: dict[str, Adapt] = {
    "full": full,
    "freeze": freeze,
    "last-linear": last_linear,
    "lora": lora,
    "frozen": frozen,
}


def adapt(model: GPT2, config: RunConfig) -> GPT2:
    """Apply the adapter that `config` names to `model`, in place, and return it. The task's own head always trains."""
    lookup(ADAPTERS, config.adapter, "adapter")(model, config)
    if model.head is not None:
        model.head.requires_grad_(True)
    return model
