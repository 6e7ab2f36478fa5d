"""Exponential moving average of a module's weights, with a warm-up."""

from collections.abc import Mapping

import torch
from torch import Tensor


def ema_decay(updates: int, decay: float) -> float:
    """Return the decay after `updates` updates: without a warm-up 0.9999 keeps the random start for 10,000 of them."""
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """The average of live weights, kept in tensors of its own."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        self.decay = decay
        self._weights = dict(weights)
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the weights; `updates` counts those before this one."""
        share = 1 - ema_decay(updates, self.decay)
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), share)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the live averages by parameter name."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, averages: Mapping[str, Tensor]) -> None:
        """Copy averages in; KeyError for a missing or unknown name."""
        if averages.keys() != self._averages.keys():
            raise KeyError(f"averages of other parameters: {sorted(averages.keys() ^ self._averages.keys())[:5]}")
        for name, average in self._averages.items():
            average.copy_(averages[name])
