"""Decoding strategies. To add one that samples: a function `keep` and a line in DECODERS.

To add one that searches: a file with a function of `Procedure`'s signature, and a line in DECODERS with the key that holds the
number of hypotheses. The `columns` that a function reads are the keys of its entry. One that depends on what the text says has a
class with the protocol `Guide`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2core.component import Component, Table, first_clause
from gpt2core.config import (
    BeamKeys,
    BestKeys,
    ContrastiveKeys,
    DecodingConfig,
    EdtKeys,
    EtaKeys,
    MinPKeys,
    MirostatKeys,
    TextKeys,
    TopKKeys,
    TopKPKeys,
    TopPKeys,
    TypicalKeys,
)
from gpt2core.decoding import best, filters
from gpt2core.decoding.beam import beam
from gpt2core.decoding.best import Judge
from gpt2core.decoding.contrastive import contrastive
from gpt2core.decoding.form import SonnetForm
from gpt2core.decoding.guide import MakeGuide
from gpt2core.decoding.searching import Search, search

#: (probabilities (B, V), parameters (B, 1) by key) -> probabilities (B, V) that are 0 for tokens which may not be drawn. They
#: need not sum to 1, and each row must keep at least one token.
Keep = Callable[[Tensor, filters.Columns], Tensor]


@dataclass(frozen=True, kw_only=True)
class Decoder(Component):
    """An entry of DECODERS, with a function `keep` if it samples, or `search` if it searches.

    One that samples may have a `guide`, which reads the text so far, and a `judge`, which chooses one of `best_of` texts.
    """

    keep: Keep | None = None
    guide: MakeGuide | None = None
    judge: Judge | None = None
    search: Search | None = None
    is_greedy: Callable[[DecodingConfig], bool] = lambda config: False  # at any temperature

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(self.judge or self.guide or self.keep or self.search)

    def samples(self, config: DecodingConfig) -> bool:
        """Whether the temperature and the seed of `config` affect its texts."""
        varies = self.keep is not None and "temperature" in self.keys.model_fields
        return varies and config.temperature >= filters.COLDEST

    @property
    def reads_text(self) -> bool:
        """Whether it needs the tokenizer."""
        return self.guide is not None or self.judge is not None

    @property
    def compares_texts(self) -> bool:
        """Whether a token may be dropped after it was drawn, so that texts can be neither stopped nor restricted from outside."""
        return self.search is not None or self.judge is not None


DECODERS: Table[Decoder] = Table(
    "decoder",
    Decoder,
    {
        "greedy": Decoder(keep=filters.greedy, keys=TextKeys),
        "top-k": Decoder(keep=filters.top_k, keys=TopKKeys),
        "top-p": Decoder(keep=filters.top_p, keys=TopPKeys),
        "top-k-p": Decoder(keep=filters.top_k_then_p, keys=TopKPKeys),
        "top-k-p-study": Decoder(keep=filters.top_k_and_p, keys=TopKPKeys),
        "min-p": Decoder(keep=filters.min_p, keys=MinPKeys),
        "typical": Decoder(keep=filters.typical, keys=TypicalKeys),
        "eta": Decoder(keep=filters.eta, keys=EtaKeys),
        "mirostat": Decoder(keep=filters.mirostat, keys=MirostatKeys),
        "edt": Decoder(keep=filters.edt, keys=EdtKeys),
        "best-form": Decoder(keep=filters.top_p, judge=best.form, keys=BestKeys),
        "best-likelihood": Decoder(keep=filters.top_p, judge=best.likelihood, keys=BestKeys),
        "form": Decoder(keep=filters.top_p, guide=SonnetForm, keys=TopPKeys),
        "beam": Decoder(search=search(beam, "num_beams"), keys=BeamKeys, is_greedy=lambda beams: beams.num_beams == 1),
        "contrastive": Decoder(search=search(contrastive, "top_k"), keys=ContrastiveKeys),
    },
)


def resolved(config: DecodingConfig) -> DecodingConfig:
    """Return `config`, as greedy decoding if it is equivalent to it: at a temperature near 0, or with a single beam."""
    if config.temperature < filters.COLDEST or DECODERS[config.strategy].is_greedy(config):
        return config.model_copy(update={"strategy": "greedy", "temperature": 1.0})
    return config


def texts_of(config: DecodingConfig) -> int:
    """Return how many texts are sampled for one."""
    return config.best_of if DECODERS[config.strategy].judge else 1


def deciding(config: DecodingConfig) -> dict[str, Any]:
    """Return the strategy and the keys that it reads: configurations that agree on these generate the same texts."""
    greedy_or_same = resolved(config)
    return greedy_or_same.model_dump(include={"strategy", *DECODERS[greedy_or_same.strategy].keys.model_fields})
