"""When one may look again: the level at each of several planned looks so that all together err in 5% of cases.

Lan and DeMets (1983) with the spending function of O'Brien and Fleming: hardly anything is spent early, so the last look has
nearly the whole level. What was spent is fixed by the plan, before the first look.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

REACH, POINTS = 8.0, 1601  # of the grid on which a statistic is followed, in standard deviations


def spent(alpha: float, information: float) -> float:
    """How much of `alpha` may be spent, half of it on either side, when a share `information` (0 to 1] of all data is there."""
    return float(4 * norm.sf(norm.isf(alpha / 4) / math.sqrt(min(1.0, information))))


@functools.cache
def levels(looks: tuple[int, ...], most: int, alpha: float = 0.05) -> tuple[float, ...]:
    """The two-sided level of the test at each look; `looks` are the runs by then, growing, and `most` the runs at the end.

    The statistic is followed as a Brownian motion from look to look (Armitage, McPherson & Rowe 1969), by numerical integration.
    With one look at the end it is `alpha`. Raises ValueError for looks that do not grow, or end beyond `most`.
    """
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < 1 or looks[-1] > most:
        raise ValueError(f"The looks are {list(looks)}, but must grow, from 1 to at most {most}")
    grid = np.linspace(-REACH, REACH, POINTS)
    step, levels = grid[1] - grid[0], []
    density, before, used = None, 0.0, 0.0
    for look in looks:
        now = look / most
        due = spent(alpha, now) - used
        moved = norm.pdf(grid, scale=math.sqrt(now)) if density is None else _moved(density, grid, now - before, step)
        bound = _bound(moved, grid, due, step, now)
        levels.append(float(2 * norm.sf(bound / math.sqrt(now))))
        density = np.where(np.abs(grid) < bound, moved, 0.0)
        before, used = now, spent(alpha, now)
    return tuple(levels)


def _moved(density: np.ndarray, grid: np.ndarray, time: float, step: float) -> np.ndarray:
    """The density of the statistic after some more time."""
    kernel = norm.pdf(grid, scale=math.sqrt(time))
    return np.asarray(np.convolve(density, kernel, mode="same") * step)


def _bound(density: np.ndarray, grid: np.ndarray, due: float, step: float, now: float) -> float:
    """The value beyond which, on either side, a probability of `due` lies."""
    above = np.cumsum(density[::-1])[::-1] * step - density * step / 2

    def excess(bound: float) -> float:
        return 2 * float(np.interp(bound, grid, above)) - due

    return float(brentq(excess, 0.0, REACH))


def schedule(least: int, most: int) -> tuple[int, ...]:
    """The looks of a comparison that goes on until it is decided: after `least` runs, and after each further one."""
    return tuple(range(least, most + 1))


def level_at(runs: int, looks: Sequence[int], alpha: float = 0.05) -> float | None:
    """The level of the last look that so many runs allow; None before the first."""
    passed = [place for place, look in enumerate(looks) if look <= runs]
    return levels(tuple(looks), looks[-1], alpha)[passed[-1]] if passed else None
