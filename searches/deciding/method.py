"""How a search looks for the best trial: sampler, stopping rule, further objectives, limits. The question does not change."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpt2core.component import Keys, nearest
from gpt2core.errors import ConfigError

K = TypeVar("K", bound=Keys)

#: What a trial costs, beside any metric that it reports. Small is good.
COSTS = {
    "memory_gb": "memory of the accelerator in GB: measured where there is one, else predicted",
    "seconds": "time of training and evaluation",
    "parameters": "parameters that train",
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a trial may cost at most, or score at least: `metric` `sign` `bound`."""

    metric: str
    sign: str
    bound: float

    def excess(self, value: float) -> float:
        """How far a value is beyond the bound; 0 or less is allowed."""
        return value - self.bound if self.sign == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """The names of a sampler and a stopping rule, with what they are told."""

    sampler: str = "tpe"  # an entry of SAMPLERS
    scheduler: str = "asha"  # an entry of SCHEDULERS
    minimize: tuple[str, ...] = ()  # objectives beside the task's own
    limits: tuple[Limit, ...] = ()
    plateau: int | None = None  # epochs without a better score that end a trial
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # keys of sampler and scheduler that are not at their default

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = {**vars(self), "minimize": list(self.minimize), "limits": [str(limit) for limit in self.limits]}
        return plain if self.settings else {key: value for key, value in plain.items() if key != "settings"}

    def part(self, keys: type[K]) -> K:
        """The keys of the sampler or the scheduler."""
        return keys.of({key: value for key, value in self.settings.items() if key in keys.model_fields})


DEFAULT = Method()


def limit(text: str) -> Limit:
    """Read `memory_gb<=8`; raise ConfigError."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        if found is None or not math.isfinite(float(found[3])):
            raise ValueError
        return Limit(metric=found[1], sign=found[2], bound=float(found[3]))
    except ValueError:
        raise ConfigError(
            f"The value of `--constraint` is {text!r}, but must be METRIC<=NUMBER or METRIC>=NUMBER, "
            "for instance memory_gb<=8"
        ) from None


def objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Return the further objectives, each once; raise ConfigError for one that is no cost."""
    for name in names:
        if name not in COSTS:
            raise ConfigError(f"The value of `--minimize` is {name!r}, but must be a cost: {nearest(name, COSTS)}")
    return tuple(dict.fromkeys(names))
