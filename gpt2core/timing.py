"""Where the time goes: seconds by part of the work, since this process began."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_spent: dict[str, float] = defaultdict(float)


@contextmanager
def spending(part: str) -> Iterator[None]:
    """Count the seconds within for `part`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _spent[part] += time.perf_counter() - started


def spent(part: str) -> float:
    """Seconds that `part` has taken in this process."""
    return _spent[part]
