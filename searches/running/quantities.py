"""What a search takes, quantity by quantity: what was predicted of it, kept in its ledger."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpt2core.estimates import Range

Quantity = Literal[
    "trials", "epochs", "trial_seconds", "hours", "gpu_hours", "cpu_hours", "usd", "memory_gb", "disk_gb"
]
#: How a table names each.
WORDS: dict[Quantity, str] = {
    "trials": "trials",
    "epochs": "epochs",
    "trial_seconds": "seconds of a whole trial",
    "hours": "hours",
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-hours",
    "usd": "USD",
    "memory_gb": "most memory of a trial, GB",
    "disk_gb": "checkpoints, GB",
}


class QuantityRow(BaseModel):
    """A quantity as it was predicted, and what it came to; `actual` is None where that is not known."""

    quantity: Quantity
    value: float
    low: float
    high: float
    actual: float | None = None


class Forecast(BaseModel):
    """What a search was predicted to take, before its first trial."""

    model_config = ConfigDict(frozen=True)

    ranges: dict[Quantity, Range] = {}
    trials: Annotated[int, Field(ge=0)] = 0  # of the search, and fresh seeds of each finalist: it is of so many
    replicates: Annotated[int, Field(ge=0)] = 0
    gpu_gb: Annotated[float, Field(allow_inf_nan=False)] | None = None  # memory of a GPU; None where there is none
    notes: list[str] = []  # what it takes for granted

    def most(self, quantity: Quantity) -> float | None:
        """The most that is predicted of a quantity; None where nothing is."""
        return self.ranges[quantity].high if quantity in self.ranges else None

    def rows(self, actual: Mapping[Quantity, float | None] | None = None) -> list[QuantityRow]:
        """A row for each quantity, with what it came to where that is known."""
        known = actual or {}
        return [
            QuantityRow(quantity=quantity, value=r.value, low=r.low, high=r.high, actual=known.get(quantity))
            for quantity, r in self.ranges.items()
        ]
