"""The ledger: what stages have cost, in rows and in all, and what that is in money."""

from collections.abc import Iterable, Mapping
from typing import Any

from storage.cost import Cost, DeviceCost
from storage.manifest import Manifest

CORE_HOUR = "cpu"
"""Name in a price list of an hour of a CPU core; every other one is the beginning of a device's name."""
PAPER = {"device_days": 88, "device": "A100", "of": "pre-training (arXiv 2503.08619)"}
"""Cost of the paper's student."""


def cost_of(manifest: Manifest) -> Cost:
    """Return the cost in a manifest; before format version 4 it is inferred: one process, seconds of its device."""
    if manifest.cost is not None:
        return manifest.cost
    seconds, held = manifest.timings["seconds"], manifest.device_seconds
    device = DeviceCost(id=manifest.host.get("device", "device"), name="unknown", seconds=held)
    return Cost(
        attempts=1,
        processes=1,
        wall_seconds=seconds,
        busy_seconds=seconds,
        devices=(device,) if held else (),
        not_measured=("all but seconds, in artifacts of format version 3 and before",),
    )


def ledger_row(label: str, manifest: Manifest, prices: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of a finished stage."""
    files = manifest.files
    return {
        "stage": label,
        "key": manifest.key,
        "state": "done",
        "measured": manifest.cost is not None,
        "rows": manifest.counts.get("rows", 0),
        "reused": manifest.reused,
        "bytes": sum(file.bytes for file in files),
        **describe_cost(cost_of(manifest), prices),
    }


def describe_cost(cost: Cost, prices: Mapping[str, float]) -> dict[str, Any]:
    """Return a cost as JSON, with its device-seconds, energy and money."""
    amount, unpriced = money(cost, prices)
    fields = cost.model_dump(mode="json")
    return {
        "seconds": fields.pop("wall_seconds"),
        "device_seconds": cost.device_seconds,
        **fields,
        "joules": cost.joules,
        "money": amount,
        "unpriced": unpriced,
    }


def money(cost: Cost, prices: Mapping[str, float]) -> tuple[float | None, list[str]]:
    """Return the money for what has a price, None without a price list, and the names of what has none.

    GPUs cost by the hour that a process worked with them, CPU cores by the hour of their work. Of several names in the
    list that a device's begins with, the longest counts.
    """
    if not prices:
        return None, []
    amount, unpriced = 0.0, []
    hours = [(device.name, device.seconds / 3600) for device in cost.devices if device.name != CORE_HOUR]
    for name, spent in [*hours, (CORE_HOUR, cost.cpu_seconds / 3600)]:
        fitting = [begin for begin in prices if name.lower().startswith(begin.lower())]
        if fitting:
            amount += spent * prices[max(fitting, key=len)]
        elif spent:
            unpriced.append(name)
    return amount, sorted(set(unpriced))


def total_cost(costs: Iterable[Cost], prices: Mapping[str, float]) -> dict[str, Any]:
    """Return the sum of costs as `describe_cost` does."""
    return describe_cost(Cost.sum(costs), prices)
