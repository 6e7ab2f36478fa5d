"""Facts of the machine that makes an artifact, for its manifest: processor, memory, GPUs, device."""

import os
import platform
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


def host_facts(device: str | None) -> dict[str, str]:
    """Return the machine by name; no byte of an artifact may depend on it, except by rounding.

    Args:
        device: setting of a stage that works on the accelerator; None for others, which have no device.
    """
    facts = {"machine": platform.machine(), "system": platform.system(), "cpu": cpu_name(), "cores": _cores()}
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    if names := gpu_names():
        facts["gpu"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return facts | ({"device": _resolved(device)} if device else {})


def cpu_name() -> str:
    """Return the processor's name as its maker gives it, or its architecture where nothing names it."""
    if _CPUINFO.is_file() and (named := re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)):
        return " ".join(named[1].split())
    return platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """Return the name of each NVIDIA GPU that the driver lists; asking CUDA would take memory on each."""
    texts = (path.read_text() for path in sorted(_GPUS.glob("*/information")))
    return [named[1].strip() for text in texts if (named := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]


def _cores() -> str:
    """Return the number of cores, and of those that this process may use where these are fewer."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return str(cores) if usable == cores else f"{usable} of {cores}"


def _resolved(device: str) -> str:
    """Return the device that a setting means here."""
    if device != "auto":
        return device
    import torch  # late: most stages that name a device have loaded it

    return f"{'cuda' if torch.cuda.is_available() else 'cpu'} (auto)"
