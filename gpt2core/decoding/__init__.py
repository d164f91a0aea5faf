"""Decoding strategies. To add one: a function that keeps some of the tokens, and a line in DECODERS."""

from collections.abc import Callable

from torch import Tensor

from gpt2core.config import DecodingConfig
from gpt2core.decoding.filters import greedy, top_k, top_k_and_p, top_k_then_p, top_p

#: Probabilities (B, V), sorted by nothing -> the same with zero for each token that may not be drawn.
Keep = Callable[[Tensor, DecodingConfig], Tensor]

DECODERS: dict[str, Keep] = {
    "greedy": greedy,
    "top-k": top_k,
    "top-p": top_p,
    "top-k-p": top_k_then_p,
    "top-k-p-study": top_k_and_p,
}
