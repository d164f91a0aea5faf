"""Ranks by block: every pattern with the same sum has the same number of LoRA parameters."""

from collections.abc import Callable, Sequence

from gpt2core.config import RunConfig, parse_blocks
from gpt2core.errors import ConfigError, shown

#: Name of a pattern -> the weight of each of n blocks, by which they share the sum of their ranks.
SHAPES: dict[str, Callable[[int], Sequence[int]]] = {
    "uniform": lambda n: [1] * n,
    "rising": lambda n: range(1, n + 1),
    "falling": lambda n: range(n, 0, -1),
    "lower-half": lambda n: [1] * max(1, n // 2) + [0] * (n - max(1, n // 2)),
    "upper-half": lambda n: [0] * (n // 2) + [1] * (n - n // 2),
}
DIGITS = 5  # of a rank at most


def has_own_ranks(spec: str) -> bool:
    """Return whether a pattern states its ranks, rather than a shape whose mean is the key `rank`."""
    return spec not in SHAPES


def rank_text(config: RunConfig) -> str:
    """Return the ranks of a run in words, such as `rank 8` or `ranks 4,4,8,16`."""
    if config.ranks == "uniform":
        return f"rank {config.rank}"
    return f"ranks {config.ranks}" + ("" if has_own_ranks(config.ranks) else f" with the mean {config.rank}")


def parse_ranks(spec: str, rank: int, blocks: Sequence[int]) -> dict[int, int]:
    """Return the rank of each block of a pattern; 0 for blocks without a pair.

    `spec` is a name of SHAPES, whose ranks have the mean `rank`; a rank for each of `blocks`, as in `4,4,8,16`; or blocks with
    their ranks, as in `0-5:4,6-11:12`, and 0 for all others. Raises ConfigError.
    """
    if spec in SHAPES:
        weights = SHAPES[spec](len(blocks))
        return dict(zip(blocks, shared(rank * len(blocks), weights), strict=True))
    try:
        named = _named(spec, blocks)
    except (ValueError, ConfigError):
        raise _error(spec, blocks) from None
    pattern = dict.fromkeys(blocks, 0) | dict(named)
    if len(dict(named)) < len(named) or len(pattern) > len(blocks) or not any(pattern.values()):
        raise _error(spec, blocks)
    return pattern


def _named(spec: str, blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Return the blocks that a pattern names with their ranks; raise ValueError if it is misshapen."""
    if ":" not in spec:
        return list(zip(blocks, map(_rank, spec.split(",")), strict=True))
    pairs = [part.strip().split(":") for part in spec.split(",")]
    return [(block, _rank(rank)) for of, rank in pairs for block in parse_blocks(of, max(blocks) + 1)]


def _rank(text: str) -> int:
    if not text.strip().isdecimal() or len(text) > DIGITS:
        raise ValueError(text)
    return int(text)


def shared(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to weights, by largest remainders; of equal ones, the last come first."""
    shares = [divmod(total * weight, sum(weights)) for weight in weights]
    parts = [whole for whole, _ in shares]
    order = sorted(range(len(parts)), key=lambda place: (shares[place][1], place), reverse=True)
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _error(spec: str, blocks: Sequence[int]) -> ConfigError:
    return ConfigError(
        f"The value of `ranks` is {shown(spec)}, but must be {', '.join(SHAPES)}, a rank for each of the {len(blocks)} adapted "
        f"blocks, such as {','.join(['8'] * min(len(blocks), 4))}, or some of these blocks once with their ranks, such as "
        f"{blocks[-1]}:8, and not only 0"
    )
