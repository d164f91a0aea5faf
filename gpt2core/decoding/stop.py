"""A stopping criterion that ends a row as soon as its new text contains what is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Stop:
    """`done` says whether a row with these new tokens is finished; once true, it must stay true for all continuations.

    To save time, `done` is called only if the last token is in `opens` and the one before it in `closes`, boolean tables (V,).
    If they are too narrow, a row only runs longer than needed.
    """

    closes: Tensor
    opens: Tensor
    done: Callable[[Sequence[int]], bool]

    def to(self, device: torch.device) -> "Stop":
        """Return a copy with its tables on `device`."""
        return Stop(self.closes.to(device), self.opens.to(device), self.done)

    def ended(self, tokens: Tensor, alive: Tensor) -> Tensor:
        """Return which of the `alive` rows (B,) are finished, given all new tokens (B, N)."""
        ended = torch.zeros_like(alive)
        if tokens.shape[1] > 1:
            places = alive.nonzero()[:, 0]  # tokens of other rows may be padding, which no table has
            places = places[self.closes[tokens[places, -2]] & self.opens[tokens[places, -1]]]
            done = [self.done(ids) for ids in tokens[places].tolist()]
            ended[places] = torch.tensor(done, dtype=torch.bool).to(ended)
        return ended
