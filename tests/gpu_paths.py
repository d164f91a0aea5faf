"""What a GPU would run, on a CPU: the branches that depend on the kind of device."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt2core.decoding import filters
from gpt2core.decoding.batch import LOOK
from gpt2core.projection import joined_weights

#: Calls that bring values to the host, for which it waits until a GPU has computed them.
WAITS = {"__bool__", "__int__", "__float__", "__index__", "cpu", "item", "nonzero", "numpy", "tolist", "unique"}


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let generation take the branches of a GPU."""
    with ExitStack() as patches:
        for module in ("sample", "beam", "contrastive"):
            patches.enter_context(patch(f"gpt2core.decoding.{module}.looks", lambda device: LOOK))
        patches.enter_context(patch.object(filters, "_first", filters.first_by_buckets))
        joined = patch(
            "gpt2core.decoding.generate.weights_for_generation", lambda model, rows, tokens: joined_weights(model)
        )
        patches.enter_context(joined)
        yield


class HostWaits(TorchFunctionMode):
    """Counts the calls for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.count += name in WAITS or (name in ("__getitem__", "__setitem__") and _has_mask(args[1]))
        return func(*args, **(kwargs or {}))


def _has_mask(index: Any) -> bool:
    """Return whether an index has a boolean tensor, whose true elements the host must count."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
