"""Rows that end as soon as their new text holds what is wanted of it, long before their last token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Stop:
    """When a row is done: `done` says it of its new tokens, and must say the same of all that may follow them.

    Two tables over the vocabulary (V,) make that cheap: `done` is asked only where a token of `opens` follows one of `closes`.
    Where they leave out a place, a row goes on for longer than it must, and nothing else changes.
    """

    closes: Tensor
    opens: Tensor
    done: Callable[[Sequence[int]], bool]

    def to(self, device: torch.device) -> "Stop":
        """The same with its tables on a device."""
        return Stop(self.closes.to(device), self.opens.to(device), self.done)

    def ended(self, tokens: Tensor, alive: Tensor) -> Tensor:
        """Which rows (B,) are done, of those that live, by their new tokens (B, N)."""
        ended = torch.zeros_like(alive)
        if tokens.shape[1] > 1:
            places = alive.nonzero()[:, 0]  # tokens of other rows may be padding, which is in no table
            before, last = tokens[places, -2], tokens[places, -1]
            places = places[self.closes[before] & self.opens[last]]
            ended[places] = torch.tensor([self.done(ids) for ids in tokens[places].tolist()], dtype=torch.bool).to(
                ended
            )
        return ended
