"""AdamW with loss scaling (Micikevicius et al. 2018), so that small gradients do not vanish in float16.

A loss is multiplied by a scale before the backward pass, and its gradients are divided by it again. An update is skipped if a
gradient is not finite, and the scale is halved; it is doubled after many updates without that. The scale is part of the
optimizer's state, so that a resumed run is like an uninterrupted one. Which gradients are not finite depends on how a batch is
divided over workers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

#: State of a GradScaler that changes: the scale, and the number of updates since it last changed.
SCALING = ("scale", "_growth_tracker")


class ScaledAdamW(torch.optim.AdamW):
    """AdamW whose updates go through its `scaler`, which does nothing unless it is enabled.

    `more` names what an adapter keeps in the state of a parameter.
    """

    def __init__(self, groups: Any, scaler: GradScaler, more: Sequence[str] = (), **options: Any) -> None:
        super().__init__(groups, **options)
        self.scaler, self.more = scaler, more

    def scaling(self) -> dict[str, Tensor]:
        """Return the changing state of the scaler; empty unless it is enabled."""
        state = self.scaler.state_dict()
        return {key: torch.tensor(float(state[key])) for key in SCALING} if state else {}

    def load_scaling(self, tensors: dict[str, Tensor]) -> None:
        """Set the scaler to the state that `scaling` returned; without one, leave it as it is."""
        if self.scaler.is_enabled() and tensors:
            changed = {"scale": float(tensors["scale"]), "_growth_tracker": int(tensors["_growth_tracker"])}
            self.scaler.load_state_dict(self.scaler.state_dict() | changed)
