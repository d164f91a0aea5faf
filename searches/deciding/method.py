"""The search method: sampler, early-stopping rule, further objectives and limits."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpt2core.component import Keys, nearest
from gpt2core.errors import ConfigError

K = TypeVar("K", bound=Keys)

#: Costs of a trial that can be minimised or limited; metrics that it reports can be limited too.
COSTS = {
    "memory_gb": "accelerator memory in GB: measured on an accelerator, else predicted",
    "seconds": "time of training and evaluation",
    "parameters": "trainable parameters",
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """An upper or lower limit of a cost or metric: `metric` `sign` `bound`."""

    metric: str
    sign: str
    bound: float

    def excess(self, value: float) -> float:
        """Return how far a value exceeds the bound; <= 0 is within it."""
        return value - self.bound if self.sign == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """The names of sampler and early-stopping rule, with their settings."""

    sampler: str = "tpe"  # an entry of SAMPLERS
    scheduler: str = "asha"  # an entry of SCHEDULERS
    minimize: tuple[str, ...] = ()  # further objectives
    limits: tuple[Limit, ...] = ()
    plateau: int | None = None  # epochs without improvement after which a trial stops
    settings: Mapping[str, Any] = field(default_factory=dict)  # non-default keys of sampler and scheduler

    def of_trials(self) -> dict[str, Any]:
        """Return the keys of trials' runs: a limit of a metric holds for stopped trials too, so each epoch has its value."""
        return {"score_every_epoch": True} if any(limit.metric not in COSTS for limit in self.limits) else {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for digests and summaries."""
        plain = {**vars(self), "minimize": list(self.minimize), "limits": [str(limit) for limit in self.limits]}
        return plain if self.settings else {key: value for key, value in plain.items() if key != "settings"}

    def part(self, keys: type[K]) -> K:
        """Return the sampler's or the scheduler's keys."""
        return keys.of({key: value for key, value in self.settings.items() if key in keys.model_fields})


DEFAULT = Method()


def limit(text: str) -> Limit:
    """Parse a limit such as `memory_gb<=8`; raise ConfigError."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        if match is None or not math.isfinite(float(match[3])):
            raise ValueError
        return Limit(metric=match[1], sign=match[2], bound=float(match[3]))
    except ValueError:
        raise ConfigError(
            f"The value of `--constraint` is {text!r}, but must be METRIC<=NUMBER or METRIC>=NUMBER, "
            "for instance memory_gb<=8"
        ) from None


def objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Return the further objectives, each once; raise ConfigError for a name that is not a cost."""
    for name in names:
        if name not in COSTS:
            raise ConfigError(f"The value of `--minimize` is {name!r}, but must be a cost: {nearest(name, COSTS)}")
    return tuple(dict.fromkeys(names))
