"""Penalties on the scores of tokens, and filters that set the probabilities of tokens that may not be drawn to 0.

A filter takes probabilities (B, V) and the parameters of the rows, (B, 1) by key; it returns probabilities (B, V) of any sum.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.derived import derived

# Buckets by the first bits of a float32: 256 per power of two, for 16 powers of two below the highest rank.
BUCKETS, SHIFT = 4096, 15
COLDEST = 1e-5  # below this temperature, logits overflow float32, and decoding is greedy
EDT_BASE = 0.8  # N of Zhang et al. 2024
UNITS = 2**40  # in a probability of 1, where masses are added as whole numbers, in any order

Columns = Mapping[str, Tensor]


def greedy(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the likeliest token."""
    best = probabilities.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(-1, best, 1.0)


def top_k(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the `top_k` likeliest tokens (Fan et al. 2018)."""
    widest: int = derived(columns["top_k"], "max", lambda: int(columns["top_k"].max()))
    width = min(widest, probabilities.shape[-1])
    values, index = probabilities.topk(width, dim=-1)
    inside = torch.arange(width, device=values.device) < columns["top_k"]
    return torch.zeros_like(probabilities).scatter_(-1, index, values.where(inside, 0.0))


def top_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the smallest set of likeliest tokens with at least `top_p` of the mass (Holtzman et al. 2020)."""
    return _first(probabilities, probabilities, columns["top_p"])


def top_k_then_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Apply top-k, renormalise, then apply top-p, as transformers does."""
    return top_p(top_k(probabilities, columns), columns)


def top_k_and_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the tokens that both top-k and top-p of the original distribution keep, as the study does."""
    return torch.minimum(top_k(probabilities, columns), top_p(probabilities, columns))


def min_p(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the likeliest (Nguyen et al. 2024)."""
    return _at_least(probabilities, columns["min_p"] * probabilities.amax(dim=-1, keepdim=True))


def typical(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the tokens whose surprise is closest to the entropy, up to a mass of `typical_p` (Meister et al. 2023)."""
    ratio = probabilities * _entropy(probabilities).exp()
    closeness = torch.minimum(ratio, 1 / ratio)  # exp(-|surprise - entropy|)
    return _first(probabilities, closeness, columns["typical_p"])


def eta(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the likeliest token and all of at least min(epsilon, sqrt(epsilon) exp(-entropy)) (Hewitt et al. 2022)."""
    epsilon = columns["epsilon"]
    least = torch.minimum(epsilon, epsilon.sqrt() * (-_entropy(probabilities)).exp())
    return _at_least(probabilities, least)


def edt(probabilities: Tensor, columns: Columns) -> Tensor:
    """Lower the temperature where the distribution is narrow, then keep top-p (Zhang et al. 2024, arXiv 2403.14541).

    The temperature is T N^(theta / H), where N = 0.8, theta is `edt_theta`, and H is the entropy in nats at the temperature T.
    """
    factor = EDT_BASE ** (columns["edt_theta"] / _entropy(probabilities))
    sharpened = (probabilities.log() / factor.clamp(min=COLDEST)).softmax(dim=-1)
    return top_p(sharpened.where(columns["edt_theta"] > 0, probabilities), columns)


def mirostat(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the likeliest token and all with a surprise of at most mu bits (Basu et al. 2021, version 2).

    mu starts at 2 `mirostat_tau`; each drawn token lowers it by `mirostat_eta` times (its surprise - `mirostat_tau`). Surprise
    refers to the unfiltered distribution. `drawn` counts the tokens of a row, `surprise` is the sum over them.
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
    """Keep the smallest set of tokens with the highest `rank` (B, V), >= 0, that holds a `share` (B, 1) of the mass.

    Sorting the vocabulary would take longer than a step of a small model. So masses are summed by bucket of rank, and only the
    bucket in which the share is reached is sorted. Its size must be known to the host, so other devices divide it again.
    """
    if rank.device.type != "cpu":
        return first_by_buckets(probabilities, rank, share)
    places = rank.view(torch.int32) >> SHIFT
    bucket = (places.amax(dim=-1, keepdim=True) - places).clamp_(max=BUCKETS - 1).long()
    masses = probabilities.new_zeros(len(rank), BUCKETS).scatter_add_(-1, bucket, probabilities)
    ends = masses.cumsum(dim=-1)
    mass = (share * ends[:, -1:]).clamp_(min=torch.finfo(torch.float32).tiny)
    mass = mass.masked_fill_(share >= 1, torch.inf)  # keep all: rounding of float32 sums would cut the tail
    border = (ends < mass).sum(dim=-1, keepdim=True)
    split = bucket == border
    index = (rank * split).topk(int(split.sum(dim=-1).max()), dim=-1).indices
    values = probabilities.gather(-1, index) * split.gather(-1, index)
    before = functional.pad(ends, (1, 0)).gather(-1, border)
    inside = before + values.cumsum(dim=-1) - values < mass
    return (probabilities * (bucket < border)).scatter_add_(-1, index, values * inside)


def first_by_buckets(probabilities: Tensor, rank: Tensor, share: Tensor) -> Tensor:
    """Return what `_first` returns, without making the host wait: buckets are the first 17 bits of a rank, then the others.

    Of tokens with the same rank, the first ones are kept.
    """
    bits, ones = rank.view(torch.int32), 2**SHIFT - 1
    units = (probabilities * UNITS).long()
    mass = (units.sum(dim=-1, keepdim=True) * share).ceil_().clamp_(min=1).long()
    mass.masked_fill_(share >= 1, torch.iinfo(torch.int64).max)  # keep all, even those without a unit
    high, low = (2 ** (31 - SHIFT) - 1 - (bits >> SHIFT)).long(), (ones - (bits & ones)).long()
    border, mass = _border(units, high, 2 ** (31 - SHIFT), mass)
    split = high == border
    last, mass = _border(units * split, low, 2**SHIFT, mass)
    tied = split & (low == last)
    own = units * tied
    inside = (high < border) | (split & (low < last)) | (tied & (own.cumsum(dim=-1) - own < mass))
    return probabilities.where(inside, 0.0)


def _border(units: Tensor, bucket: Tensor, size: int, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first of `size` buckets up to which a row has the mass (B, 1), and how much it needs of that one."""
    ends = units.new_zeros(len(units), size).scatter_add_(-1, bucket, units).cumsum(dim=-1)
    border = (ends < mass).sum(dim=-1, keepdim=True)
    return border, mass - functional.pad(ends, (1, 0)).gather(-1, border)


def penalise(
    scores: Tensor, tokens: Tensor, columns: Columns, suppress: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Return the scores (B, V), logits or log-probabilities, with repetitions of the texts so far (B, T) penalised.

    May change `scores` in place. Token V is padding. `repetition_penalty` 1 and `no_repeat_ngram` 0 change nothing. Tokens in
    `suppress` (K,), which must leave some, always get minus infinity. `added` (B, V) is added, except in rows in which no token
    would be left.
    """
    penalty, lengths = columns["repetition_penalty"], columns["no_repeat_ngram"]
    if derived(penalty, "any", lambda: bool((penalty != 1).any())):
        scores = _discount(scores, tokens, penalty)
    if suppress is not None:
        scores.index_fill_(-1, suppress, -torch.inf)
    if added is not None:
        scores = _unless_all(scores + added, scores)
    for n in derived(lengths, "distinct", lambda: lengths.unique().tolist()):
        if n and tokens.shape[1] >= n:
            free = 0 if added is not None else scores.shape[-1] - (0 if suppress is None else len(suppress))
            scores = _banned(scores, tokens, n, lengths == n, free)
    return scores


def _discount(scores: Tensor, tokens: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive scores of the text's tokens by the penalty, multiply negative ones by it (Keskar et al. 2019)."""
    padded = functional.pad(scores, (0, 1))
    old = padded.gather(-1, tokens)
    return padded.scatter(-1, tokens, torch.where(old < 0, old * penalty, old / penalty))[:, :-1]


def _banned(scores: Tensor, tokens: Tensor, n: int, own: Tensor, free: int) -> Tensor:
    """Ban tokens that would repeat an n-gram of the text (Paulus et al. 2018), unless that bans all, in the rows `own` (B, 1).

    In each row, at least `free` tokens are not banned yet.
    """
    vocabulary, last = scores.shape[-1], tokens[:, n - 1 :]  # the last tokens (B, T - n + 1) of the text's n-grams
    begun = own & (last < vocabulary)
    for place in range(n - 1):
        begun &= tokens[:, place : place + last.shape[1]] == tokens[:, tokens.shape[1] - n + 1 + place, None]
    banned = scores if last.shape[1] < free else scores.clone()
    ban = torch.zeros_like(last, dtype=scores.dtype).masked_fill_(begun, -torch.inf)
    banned.scatter_add_(-1, last.clamp(max=vocabulary - 1), ban)
    return scores if banned is scores else _unless_all(banned, scores)


def _unless_all(banned: Tensor, scores: Tensor) -> Tensor:
    """Return `banned` (B, V), but `scores` in rows in which all tokens are banned."""
    return banned.where((banned > -torch.inf).any(dim=-1, keepdim=True), scores)
