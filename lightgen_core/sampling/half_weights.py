"""Weights cast to bf16 once, for what is recorded or compiled."""

import copy
from typing import TypeVar

from torch import Tensor, nn

from lightgen_core.model.mar import Mar

Module = TypeVar("Module", bound=nn.Module)


def with_half_weights(module: Module) -> Module:
    """Copy a module with the weights in bf16 that autocast would cast: to the bit what it computes with.

    Autocast casts weights when they are first used, and frees the copies when it ends. A recorded graph would go on
    reading that memory, and a compiled step casts all weights again. Other weights are shared with the module.
    """
    half = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
    for layer in half.modules():
        if isinstance(layer, nn.Linear):
            layer.weight, layer.bias = (_half(part) for part in (layer.weight, layer.bias))
        elif isinstance(layer, Mar):  # which casts it itself, in every iteration
            layer.mask_token = _half(layer.mask_token)
    return half


def _half(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.bfloat16(), requires_grad=False)
