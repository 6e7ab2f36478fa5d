"""Precisions of pre-training beyond autocast: a bf16 residual stream, and fp8 products.

Both change the model that is trained, in place and for good; its weights, their names and what is saved stay fp32.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.config import TrainConfig
from lightgen_core.model.blocks import Block, CrossAttentionBlock, LayerNorm, Mlp
from lightgen_core.model.head import AdaLNBlock

FP8_CAPABILITY = (8, 9)
"""Compute capability from which a GPU multiplies fp8: Ada and Hopper."""


def apply_precision(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Apply a configuration's precisions, before the model is distributed.

    Raises:
        ValueError: fp8 is not possible here; names the missing package or the GPU.
    """
    if config.residual_precision == "bf16":
        _narrow_residuals(model)
    if config.fp8 != "none":
        _check_fp8(config, device)
        _convert_to_fp8(model, emulate=config.fp8 == "emulated")


def _narrow_residuals(model: nn.Module) -> None:
    """Give the transformer's blocks bf16 states, which they add to, and norms that neither read nor write fp32."""
    for block in model.modules():
        if isinstance(block, Block | CrossAttentionBlock):
            block.register_forward_pre_hook(_cast_states)
            for norm in block.modules():
                if isinstance(norm, LayerNorm):
                    vars(norm)["forward"] = partial(_norm_in_own_dtype, norm)


def _cast_states(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].to(torch.bfloat16), *inputs[1:]


def _norm_in_own_dtype(norm: LayerNorm, states: Tensor) -> Tensor:
    """Normalise in the dtype of the states; the kernel's sums are fp32 all the same. Autocast would widen them."""
    dtype = states.dtype
    with torch.autocast(states.device.type, enabled=False):
        weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
        return functional.layer_norm(states, norm.normalized_shape, weight, bias, norm.eps)


def _check_fp8(config: TrainConfig, device: torch.device) -> None:
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"fp8={config.fp8} needs the package torchao, which is not installed: pip install 'lightgen[fp8]', or set "
            "fp8=none in the recipe's section pretrain (other bytes)"
        ) from error
    if config.fp8 == "emulated":
        return
    found, has = "the CPU", (0, 0)
    if device.type == "cuda":
        has = torch.cuda.get_device_capability(device)
        found = f"{torch.cuda.get_device_name(device)} (compute capability {has[0]}.{has[1]})"
    if has < FP8_CAPABILITY:
        raise ValueError(
            f"fp8={config.fp8}: {found} does not multiply fp8, GPUs of compute capability 8.9 and later do. Set "
            "fp8=none in the recipe's section pretrain, or fp8=emulated for its rounding, slowly (other bytes)"
        )


def _convert_to_fp8(model: nn.Module, emulate: bool) -> None:
    """Turn the linear layers of MLPs and of the head's blocks into fp8 ones, with a scale for each tensor.

    The encoder keeps its own: where every token is masked it has no rows to scale, and it has 3 % of the arithmetic.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    encoder = {id(layer) for name, layer in model.named_modules() if ".encoder." in f".{name}."}
    owners = [part for part in model.modules() if isinstance(part, Mlp | AdaLNBlock) and id(part) not in encoder]
    chosen = {id(layer) for owner in owners for layer in owner.modules() if isinstance(layer, nn.Linear)}
    settings = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    convert_to_float8_training(model, config=settings, module_filter_fn=lambda layer, _: id(layer) in chosen)
