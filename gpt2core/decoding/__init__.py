"""Decoding strategies. To add one that samples: a function that keeps some of the tokens, and a line in FILTERS.

One that searches is a procedure with steps of its own: a function of `Search`'s signature in its file, and a line in SEARCHES.
`gpt2core.config.DECODER_READS` may say which keys a strategy reads, so that runs which differ in others count as one.
"""

from collections.abc import Callable

from torch import Tensor

from gpt2core.decoding.batch import Batch
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
from gpt2core.model import GPT2

#: Probabilities (B, V) and the rows' parameters (B, 1) -> the same with zero for each token that may not be drawn.
Keep = Callable[[Tensor, Columns], Tensor]

#: Model, rows with their prompts, EOS -> new tokens (B, N); what follows an EOS is cut off.
Search = Callable[[GPT2, Batch, int], Tensor]

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
    "beam": beam,
    "contrastive": contrastive,
}
DECODERS: dict[str, Keep | Search] = {**FILTERS, **SEARCHES}
