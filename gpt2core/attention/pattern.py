"""Sparse attention patterns as sorted tuples of offsets: token l attends to the tokens l - o for all offsets o <= l.

Offsets count tokens, not positions, so that left padding does not change which tokens of its text a token sees.
"""

from collections.abc import Sequence
from functools import lru_cache


@lru_cache
def offsets(length: int, window: int = 1, restart: int = 0) -> tuple[int, ...]:
    """Return the offsets of LogSparse attention (Li et al. 2019, arXiv 1907.00235, section 4.2) for `length` >= 1 tokens.

    - The plain pattern is 0 and the powers of two: token l > 0 attends to 1 + bit_length(l) tokens, including itself.
    - `window` >= 1 adds the offsets 0 to window - 1, the paper's local attention; 1 adds nothing.
    - `restart` > 0 repeats the offsets below `restart` every `restart` tokens back, the paper's restart attention; 0 is off. The
      number of offsets then grows as length / restart * log2(restart). The paper restarts at fixed positions; here the pattern
      repeats backwards from each token, so that it does not depend on where a text begins.
    """
    period = min(restart, length) if restart else length
    powers = (1 << exponent for exponent in range((period - 1).bit_length()))
    pattern = {*range(min(window, period)), 0, *powers}
    return tuple(sorted(o + start for start in range(0, length, period) for o in pattern if o + start < length))


def pairs(length: int, pattern: Sequence[int]) -> int:
    """Return the number of (query, key) pairs that a head scores for `length` tokens with the offsets `pattern`."""
    return sum(length - offset for offset in pattern)
