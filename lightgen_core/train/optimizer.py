"""The optimizer, decay on matrices only, and its learning rate as a function of the step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightgen_core.config import OptimizerConfig
from lightgen_core.train.muon import Muon
from lightgen_core.train.muon_shards import orthogonalize_shards, orthogonalize_shared
from lightgen_core.train.parallel import is_sharded


def param_groups(module: nn.Module, weights: Mapping[str, Tensor], weight_decay: float) -> list[dict]:
    """Split weights into AdamW groups: those of linear layers decay; tables, two-dimensional too, would forget."""
    linear = (name for name, layer in module.named_modules() if isinstance(layer, nn.Linear))
    matrices = {f"{name}.weight" if name else "weight" for name in linear}
    return [
        {"params": [weight for name, weight in weights.items() if name in matrices], "weight_decay": weight_decay},
        {"params": [weight for name, weight in weights.items() if name not in matrices], "weight_decay": 0.0},
    ]


def make_optimizer(module: nn.Module, weights: Mapping[str, Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build fused AdamW, or Muon; both can skip an update by a flag on the device (`found_inf`).

    weights: the parameters of the module by name, or where it is sharded this process's rows of them.
    """
    groups = param_groups(module, weights, config.weight_decay)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    matrices, others = (group["params"] for group in groups)
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "ns_steps": config.ns_steps,
    }
    parameters = dict(module.named_parameters())
    if any(map(is_sharded, parameters.values())):
        full = {weight: tuple(parameters[name].shape) for name, weight in weights.items()}
        settings |= {"shapes": [full[matrix] for matrix in matrices], "orthogonalize": orthogonalize_shards}
    elif dist.is_initialized():
        settings["orthogonalize"] = orthogonalize_shared
    return Muon(matrices, others, **settings)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of update `step` (0 to steps - 1): a linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    share = config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * share
