"""The quantities that a forecast predicts: time, compute, memory, disk and money."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpt2core.estimates import Range

Quantity = Literal[
    "trials", "epochs", "trial_seconds", "hours", "gpu_hours", "cpu_hours", "usd", "memory_gb", "disk_gb"
]
#: How tables name them.
WORDS: dict[Quantity, str] = {
    "trials": "trials",
    "epochs": "epochs",
    "trial_seconds": "seconds per whole trial",
    "hours": "hours",
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-hours",
    "usd": "USD",
    "memory_gb": "peak memory of a trial, GB",
    "disk_gb": "checkpoints, GB",
}


class QuantityRow(BaseModel):
    """A predicted quantity and its actual value, if known."""

    quantity: Quantity
    value: float
    low: float
    high: float
    actual: float | None = None


class Forecast(BaseModel):
    """The prediction before the first trial of what a search takes."""

    model_config = ConfigDict(frozen=True)

    ranges: dict[Quantity, Range] = {}
    trials: Annotated[int, Field(ge=0)] = 0  # number of trials that it is about
    replicates: Annotated[int, Field(ge=0)] = 0  # fresh seeds of each finalist
    gpu_gb: Annotated[float, Field(allow_inf_nan=False)] | None = None  # memory of a GPU; None without one
    notes: list[str] = []  # its assumptions

    def most(self, quantity: Quantity) -> float | None:
        """Return the upper bound of a quantity, or None if it is not predicted."""
        return self.ranges[quantity].high if quantity in self.ranges else None

    def rows(self, actual: Mapping[Quantity, float | None] | None = None) -> list[QuantityRow]:
        """Return a row for each predicted quantity, with its actual value if known."""
        known = actual or {}
        return [
            QuantityRow(quantity=quantity, value=r.value, low=r.low, high=r.high, actual=known.get(quantity))
            for quantity, r in self.ranges.items()
        ]
