"""Which tokens may be drawn: functions that set the probabilities of forbidden tokens to zero.

Each takes probabilities (B, V) and the rows' parameters, columns (B, 1) by key, and returns probabilities (B, V) of any sum.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

# Ranks are told apart by the first bits of their float32: 256 buckets to each octave, 16 octaves below the highest rank.
BUCKETS, SHIFT = 4096, 15

Columns = Mapping[str, Tensor]


def greedy(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the likeliest token."""
    best = probabilities.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(-1, best, 1.0)


def top_k(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the `top_k` likeliest tokens (Fan et al. 2018)."""
    width = min(int(columns["top_k"].max()), probabilities.shape[-1])
    values, index = probabilities.topk(width, dim=-1)
    inside = torch.arange(width, device=values.device) < columns["top_k"]
    return torch.zeros_like(probabilities).scatter_(-1, index, values.where(inside, 0.0))


def top_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the smallest set of likeliest tokens whose mass reaches `top_p` of the whole (Holtzman et al. 2020)."""
    return _first(probabilities, probabilities, columns["top_p"])


def top_k_then_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Top-p of what top-k left, renormalised: transformers' reading."""
    return top_p(top_k(probabilities, columns), columns)


def top_k_and_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Tokens in both sets of the distribution as it is: the study's reading."""
    return torch.minimum(top_k(probabilities, columns), top_p(probabilities, columns))


def min_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the likeliest (Nguyen et al. 2024)."""
    likeliest = probabilities.amax(dim=-1, keepdim=True)
    return probabilities.where(probabilities >= columns["min_p"] * likeliest, 0.0)


def typical(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy, until their mass is `typical_p` (Meister et al. 2023)."""
    ratio = probabilities * _entropy(probabilities).exp()
    nearness = torch.minimum(ratio, 1 / ratio)  # exp of minus the distance between surprise and entropy
    return _first(probabilities, nearness, columns["typical_p"])


def eta(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep tokens of at least min(epsilon, sqrt(epsilon) exp(-entropy)), and the likeliest (Hewitt et al. 2022)."""
    epsilon = columns["epsilon"]
    least = torch.minimum(epsilon, epsilon.sqrt() * (-_entropy(probabilities)).exp())
    return _at_least(probabilities, least)


def mirostat(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep tokens of a surprise of at most mu bits, and the likeliest (Basu et al. 2021, version 2).

    mu starts at 2 `mirostat_tau` and, by each token drawn, falls by `mirostat_eta` times what its surprise was above
    `mirostat_tau`. Surprise is that of the unfiltered distribution; `drawn` counts a row's tokens, `surprise` is their sum.
    """
    tau = columns["mirostat_tau"]
    mu = 2 * tau - columns["mirostat_eta"] * (columns["surprise"] - columns["drawn"] * tau)
    return _at_least(probabilities, (-mu).exp2())


def _entropy(probabilities: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(probabilities)
    return nats.sum(dim=-1, keepdim=True)


def _at_least(probabilities: Tensor, least: Tensor) -> Tensor:
    likeliest = probabilities.amax(dim=-1, keepdim=True)
    return probabilities.where(probabilities >= torch.minimum(least, likeliest), 0.0)


def _first(probabilities: Tensor, rank: Tensor, share: Tensor) -> Tensor:
    """Keep the tokens of highest rank (B, V), which is not negative, as few as hold a share (B, 1) of the mass.

    To sort a vocabulary takes longer than a small model's step. So masses are counted by bucket of rank, and only the bucket
    in which the share is reached is put in order.
    """
    places = rank.view(torch.int32) >> SHIFT
    bucket = (places.amax(dim=-1, keepdim=True) - places).clamp_(max=BUCKETS - 1).long()
    masses = probabilities.new_zeros(len(rank), BUCKETS).scatter_add_(-1, bucket, probabilities)
    ends = masses.cumsum(dim=-1)
    mass = (share * ends[:, -1:]).clamp_(min=torch.finfo(torch.float32).tiny)
    mass = mass.masked_fill_(share >= 1, torch.inf)  # everything: the sum of a float32 tail is not to be trusted
    border = (ends < mass).sum(dim=-1, keepdim=True)
    split = bucket == border
    index = (rank * split).topk(int(split.sum(dim=-1).max()), dim=-1).indices
    values = probabilities.gather(-1, index) * split.gather(-1, index)
    before = functional.pad(ends, (1, 0)).gather(-1, border)
    inside = before + values.cumsum(dim=-1) - values < mass
    return (probabilities * (bucket < border)).scatter_add_(-1, index, values * inside)
