"""Decoding strategies. To add one that samples: a function that keeps some of the tokens, and a line in DECODERS.

One that searches has steps of its own: a function of `Procedure`'s signature in its file, and a line in DECODERS with the key
that says how many hypotheses it follows. What a function reads of its `columns` are the keys of its entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2core.component import Component, Table
from gpt2core.config import (
    BeamKeys,
    ContrastiveKeys,
    DecodingConfig,
    EtaKeys,
    MinPKeys,
    MirostatKeys,
    TextKeys,
    TopKKeys,
    TopKPKeys,
    TopPKeys,
    TypicalKeys,
)
from gpt2core.decoding.beam import beam
from gpt2core.decoding.contrastive import contrastive
from gpt2core.decoding.filters import (
    Columns,
    eta,
    greedy,
    min_p,
    mirostat,
    top_k,
    top_k_and_p,
    top_k_then_p,
    top_p,
    typical,
)
from gpt2core.decoding.searching import Search, search

COLDEST = 1e-5  # below this temperature, logits leave float32's range: it is greedy decoding

#: Probabilities (B, V) and the rows' parameters (B, 1) -> the same with zero for each token that may not be drawn.
Keep = Callable[[Tensor, Columns], Tensor]


@dataclass(frozen=True, kw_only=True)
class Decoder(Component):
    """An entry of DECODERS: one that samples has a function `keep`, one that searches `search`.

    `is_greedy` says which of its configurations give what greedy decoding gives, whatever the temperature.
    """

    keep: Keep | None = None
    search: Search | None = None
    is_greedy: Callable[[DecodingConfig], bool] = lambda config: False


DECODERS: Table[Decoder] = Table(
    "decoder",
    {
        "greedy": Decoder(keep=greedy, keys=TextKeys),
        "top-k": Decoder(keep=top_k, keys=TopKKeys),
        "top-p": Decoder(keep=top_p, keys=TopPKeys),
        "top-k-p": Decoder(keep=top_k_then_p, keys=TopKPKeys),
        "top-k-p-study": Decoder(keep=top_k_and_p, keys=TopKPKeys),
        "min-p": Decoder(keep=min_p, keys=MinPKeys),
        "typical": Decoder(keep=typical, keys=TypicalKeys),
        "eta": Decoder(keep=eta, keys=EtaKeys),
        "mirostat": Decoder(keep=mirostat, keys=MirostatKeys),
        "beam": Decoder(
            search=search(beam, "num_beams"), keys=BeamKeys, is_greedy=lambda config: config.num_beams == 1
        ),
        "contrastive": Decoder(search=search(contrastive, "top_k"), keys=ContrastiveKeys),
    },
)


def resolved(config: DecodingConfig) -> DecodingConfig:
    """The same decoding by its name: whatever is very cold, or a beam search of one beam, is greedy."""
    if config.temperature < COLDEST or DECODERS[config.strategy].is_greedy(config):
        return config.model_copy(update={"strategy": "greedy", "temperature": 1.0})
    return config


def deciding(config: DecodingConfig) -> dict[str, Any]:
    """The strategy and the keys that it reads: two configurations that have these in common write the same texts."""
    named = resolved(config)
    return named.model_dump(include={"strategy", *DECODERS[named.strategy].keys.model_fields})
