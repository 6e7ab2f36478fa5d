"""The optimizer, decay on matrices only, and its learning rate as a function of the step."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightgen_core.config import OptimizerConfig
from lightgen_core.train.muon import Muon


def param_groups(module: nn.Module, weights: Mapping[str, Tensor], weight_decay: float) -> list[dict]:
    """Splits trained weights, named as in the module, into AdamW groups: those of linear maps decay, others do not.

    Membership goes by the owning layer and not by the number of dimensions: a position table or a table of learned
    vectors is two-dimensional too, but shrinking it towards zero forgets instead of regularising.
    """
    linear = (name for name, layer in module.named_modules() if isinstance(layer, nn.Linear))
    matrices = {f"{name}.weight" if name else "weight" for name in linear}
    return [
        {"params": [held for name, held in weights.items() if name in matrices], "weight_decay": weight_decay},
        {"params": [held for name, held in weights.items() if name not in matrices], "weight_decay": 0.0},
    ]


def make_optimizer(module: nn.Module, weights: Mapping[str, Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW, or Muon, over the decay groups of a module. The loop sets the learning rate before every update.

    Fused on CPU as well: one vectorised pass over each tensor instead of a dozen, and, like the GPU kernel, it can skip
    an update by a flag that never leaves the device (`found_inf`).
    """
    groups = param_groups(module, weights, config.weight_decay)
    if config.name == "muon":
        matrices, others = (group["params"] for group in groups)
        return Muon(matrices, others, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of update `step` (0 to steps - 1).

    Rises linearly over the first `warmup_steps` updates (update 0 already moves, the last of them has the peak rate),
    then stays, or falls along half a cosine so that the last update has `min_lr_ratio` of the peak.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    share = config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * share
