"""Devices by name."""

import logging
import os

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def pick_device(name: str, threads: int) -> torch.device:
    """Return the device of a name ("auto": a GPU if there is one), and set torch's CPU threads.

    A GPU by its number becomes this process's current one: streams and recorded graphs are of the current device.

    Raises:
        ValueError: the device is not on this machine.
    """
    # Read at the first product, which is then the same with any number of threads ("Conditional Numerical
    # Reproducibility" in MKL's developer guide); gradients may round differently.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    torch.set_num_threads(threads)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not usable here: {error}. Set LIGHTGEN_DEVICE to auto, cpu or cuda."
        ) from error
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting: to a GPU from page-locked memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it: by index or UUID."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(index) for index in range(count)])[:count]


def check_bf16(device: torch.device) -> None:
    """Raise ValueError for a GPU without bfloat16, where fp16 would overflow; warn of an x86 CPU that emulates it."""
    cpu = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    if cpu.get("architecture") == "x86_64" and not (cpu["avx512_bf16"] or cpu["amx_bf16"]):
        logger.warning(
            "this CPU has no bfloat16 arithmetic: precision bf16 is emulated, slower than fp32. Set "
            "precision=fp32 in the recipe's sections pretrain and dpo (other bytes, as with every field)"
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic (Ampere, 2020, and later have); "
            "set precision=fp32 in the recipe's sections pretrain and dpo"
        )
