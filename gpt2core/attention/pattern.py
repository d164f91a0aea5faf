"""Sparse attention patterns: how far back a token looks, as a sorted tuple of offsets that is the same for all tokens.

Token l attends to the tokens l - o of all offsets o <= l. Distances count tokens, not positions, so padding on the left
moves a text without changing what its tokens see.
"""

from collections.abc import Sequence
from functools import lru_cache


@lru_cache
def offsets(length: int, window: int = 1, restart: int = 0) -> tuple[int, ...]:
    """Offsets of LogSparse attention (Li et al. 2019, arXiv 1907.00235, section 4.2) among `length` >= 1 tokens.

    The plain pattern is {0} and the powers of two: token l > 0 attends to 1 + bit_length(l) tokens, itself among them.
    `window` >= 1 adds the offsets 0 to window - 1, the paper's local attention; 1 adds nothing. `restart` > 0 keeps the
    offsets below `restart` and repeats them every `restart` tokens back, the paper's restart attention; 0 is off. The
    paper restarts at fixed places of a text; here the repetition goes back from each token, so that the pattern does not
    depend on where a text begins. Its length grows as length / restart * log2(restart).
    """
    period = min(restart, length) if restart else length
    powers = (1 << exponent for exponent in range((period - 1).bit_length()))
    pattern = {*range(min(window, period)), 0, *powers}
    return tuple(sorted(o + start for start in range(0, length, period) for o in pattern if o + start < length))


def pairs(length: int, pattern: Sequence[int]) -> int:
    """How many (query, key) pairs the offsets `pattern` leave among `length` tokens; a head scores each once."""
    return sum(length - offset for offset in pattern)
