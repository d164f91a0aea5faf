"""Which tokens may be drawn. Each function takes probabilities (B, V) and sets those of forbidden tokens to zero."""

import torch
from torch import Tensor

from gpt2core.config import DecodingConfig

NUCLEUS = 256  # the nucleus is nearly always among this many; only rows where it is not are sorted whole


def greedy(probabilities: Tensor, config: DecodingConfig) -> Tensor:
    """Keep the likeliest token."""
    best = probabilities.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(-1, best, 1.0)


def top_k(probabilities: Tensor, config: DecodingConfig) -> Tensor:
    """Keep the `top_k` likeliest tokens (Fan et al. 2018)."""
    values, index = probabilities.topk(min(config.top_k, probabilities.shape[-1]), dim=-1)
    return torch.zeros_like(probabilities).scatter_(-1, index, values)


def top_p(probabilities: Tensor, config: DecodingConfig) -> Tensor:
    """Keep the smallest set of likeliest tokens whose mass reaches `top_p` of the whole (Holtzman et al. 2020)."""
    if config.top_p == 1.0:  # all of them: the sum of a float32 tail is not to be trusted
        return probabilities
    mass = config.top_p * probabilities.sum(dim=-1)
    kept, enough = _nucleus(probabilities, mass, NUCLEUS)
    if not bool(enough.all()):
        wide = ~enough
        kept[wide], _ = _nucleus(probabilities[wide], mass[wide], probabilities.shape[-1])
    return kept


def _nucleus(probabilities: Tensor, mass: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the nucleus sought among the `width` likeliest tokens, and for which rows that was wide enough."""
    values, index = probabilities.topk(min(width, probabilities.shape[-1]), dim=-1)
    before = values.cumsum(dim=-1) - values
    inside = before < mass[:, None]
    inside[:, 0] = True  # even where the mass sought is too small for float32
    kept = values.where(inside, 0.0)
    return torch.zeros_like(probabilities).scatter_(-1, index, kept), values.sum(dim=-1) >= mass


def top_k_then_p(probabilities: Tensor, config: DecodingConfig) -> Tensor:
    """Top-p of what top-k left, renormalised: transformers' reading."""
    return top_p(top_k(probabilities, config), config)


def top_k_and_p(probabilities: Tensor, config: DecodingConfig) -> Tensor:
    """Tokens in both sets of the distribution as it is: the study's reading."""
    return torch.minimum(top_k(probabilities, config), top_p(probabilities, config))
