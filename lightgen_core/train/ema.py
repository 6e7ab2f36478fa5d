"""Exponential moving average of a module's weights, with a warm-up."""

from collections.abc import Mapping

import torch
from torch import Tensor


def ema_decay(updates: int, decay: float) -> float:
    """Decay of the average after `updates` earlier updates: min(decay, (1 + n) / (10 + n)).

    Without the warm-up an average of decay 0.9999 still is mostly the random start after 10,000 updates: images sampled
    from such a cold average are black or grey.
    """
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """The average of trained weights, kept in tensors of its own."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        """weights: the live tensors by name, as `parallel.shards` gives them."""
        self.decay = decay
        self._weights = dict(weights)
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the weights; `updates` counts the updates before this one, so it is the step."""
        share = 1 - ema_decay(updates, self.decay)
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), share)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name; the tensors are the live ones."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, averages: Mapping[str, Tensor]) -> None:
        """Copies averages in. Raises KeyError where a name is missing or unknown."""
        if averages.keys() != self._averages.keys():
            raise KeyError(f"averages of other parameters: {sorted(averages.keys() ^ self._averages.keys())[:5]}")
        for name, average in self._averages.items():
            average.copy_(averages[name])
