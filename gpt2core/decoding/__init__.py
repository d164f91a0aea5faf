"""Decoding strategies. To add one that samples: a function that keeps some of the tokens, and a line in FILTERS.

One that searches has steps of its own: a function of `Procedure`'s signature in its file, and a line in SEARCHES with the key
that says how many hypotheses it follows.
`gpt2core.config.DECODER_READS` may say which keys a strategy reads, so that runs which differ in others count as one.
"""

from collections.abc import Callable

from torch import Tensor

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

#: Probabilities (B, V) and the rows' parameters (B, 1) -> the same with zero for each token that may not be drawn.
Keep = Callable[[Tensor, Columns], Tensor]

FILTERS: dict[str, Keep] = {
    "greedy": greedy,
    "top-k": top_k,
    "top-p": top_p,
    "top-k-p": top_k_then_p,
    "top-k-p-study": top_k_and_p,
    "min-p": min_p,
    "typical": typical,
    "eta": eta,
    "mirostat": mirostat,
}
SEARCHES: dict[str, Search] = {
    "beam": search(beam, "num_beams"),
    "contrastive": search(contrastive, "top_k"),
}
DECODERS: dict[str, Keep | Search] = {**FILTERS, **SEARCHES}
