"""Group sequential testing: the level of the test at each planned look so that the overall error rate is 5%.

Alpha spending of Lan and DeMets (1983) with O'Brien and Fleming's function, which spends little early and leaves the last look
nearly the whole level. The spending is fixed by the plan, before the first look.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri  # the distribution of a standard normal variable, and its inverse

REACH, POINTS = 8.0, 1601  # of the grid for numerical integration, in standard deviations


def spent(alpha: float, information: float) -> float:
    """Return the part of `alpha`, two-sided, that may be spent by the time a share `information`, (0, 1], of the data is in."""
    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(min(1.0, information))))


@functools.cache
def levels(looks: tuple[int, ...], most: int, alpha: float = 0.05) -> tuple[float, ...]:
    """Return the two-sided level at each look; `looks` are the increasing numbers of runs at each, `most` the final number.

    The statistic is a Brownian motion, integrated numerically from look to look (Armitage, McPherson & Rowe 1969). A single
    look at the end has the level `alpha`. Raises ValueError if looks do not increase or exceed `most`.
    """
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < 1 or looks[-1] > most:
        raise ValueError(f"The looks are {list(looks)}, but must increase from at least 1 to at most {most}")
    grid = np.linspace(-REACH, REACH, POINTS)
    step, result = grid[1] - grid[0], []
    density, before, used = None, 0.0, 0.0
    for look in looks:
        now = look / most
        due = spent(alpha, now) - used
        moved = np.exp(-(grid**2) / (2 * (now - before))) / math.sqrt(2 * math.pi * (now - before))
        if density is not None:
            moved = np.convolve(density, moved, mode="same") * step
        bound = _bound(moved, grid, due, step)
        result.append(float(2 * ndtr(-bound / math.sqrt(now))))
        density = np.where(np.abs(grid) < bound, moved, 0.0)
        before, used = now, spent(alpha, now)
    return tuple(result)


def _bound(density: np.ndarray, grid: np.ndarray, due: float, step: float) -> float:
    """Return the bound of the two-sided rejection region with the probability `due`."""
    above = np.cumsum(density[::-1])[::-1] * step - density * step / 2
    return float(np.interp(due / 2, above[::-1], grid[::-1]))


def schedule(least: int, most: int) -> tuple[int, ...]:
    """Return the looks of a comparison that continues until it is decided: after `least` runs and after each further run."""
    return tuple(range(least, most + 1))


def level_at(runs: int, looks: Sequence[int], alpha: float = 0.05) -> float | None:
    """Return the level of the latest look with at most `runs` runs; None before the first look."""
    passed = [place for place, look in enumerate(looks) if look <= runs]
    return levels(tuple(looks), looks[-1], alpha)[passed[-1]] if passed else None
