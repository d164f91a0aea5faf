"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): only bias terms train."""

from typing import Literal

from gpt2core.adapters import Adapter
from gpt2core.component import Keys, key
from gpt2core.config import RunConfig
from gpt2core.model import GPT2

#: Choice of `biases` -> how the names of the trainable parameters end.
ENDINGS = {"all": (".bias",), "query+middle": ("attention.query.bias", "mlp_in.bias")}


class BitfitKeys(Keys):
    """Keys of BitFit."""

    biases: Literal["all", "query+middle"] = key(
        "all", "bitfit: bias terms that train: all, or query+middle (those of queries and of the MLP's hidden layer)"
    )


def bitfit(model: GPT2, config: RunConfig) -> None:
    """Train only the bias terms that `biases` names."""
    endings = ENDINGS[config.part(BitfitKeys).biases]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(endings))


BITFIT = Adapter(apply=bitfit, keys=BitfitKeys, meaning="only bias terms train")
