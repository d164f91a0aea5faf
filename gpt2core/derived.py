"""Values that are computed once from a tensor and live as long as it, such as the mask that all blocks of a pass share."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")

_VALUES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # tensor -> values by key


def derived(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """Return the result of `make`, computed once for each tensor and key; the tensor must not change afterwards."""
    values: dict[Hashable, Any] = _VALUES.setdefault(tensor, {})
    if key not in values:
        with torch.inference_mode(False):  # training may use it too
            values[key] = make()
    result: T = values[key]
    return result
