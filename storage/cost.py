"""The cost of an artifact, as its manifest holds it."""

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum of what was measured; None if nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class DeviceCost(BaseModel):
    """One device: a GPU, or the CPU of a machine where no GPU was used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="UUID of a GPU, or cpu@ and the machine's name")
    name: str = Field(description="as its driver calls it, or cpu")
    seconds: float = Field(ge=0, description="for which a process of the stage worked with it; two at once count once")
    busy_seconds: float | None = Field(None, description="of these, with a kernel at work; None: not measured")
    joules: float | None = Field(None, description="energy; None: not measured")


class Cost(BaseModel):
    """Expenses on an artifact of all processes of all attempts, killed ones included.

    A sum: `Cost.sum` adds those of several artifacts, or of several makings of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(0, ge=0, description="runs that worked on it")
    processes: int = Field(0, ge=0, description="processes that worked on it, over all attempts")
    wall_seconds: float = Field(0.0, ge=0, description="of all attempts, from holding lock and device to the end")
    waiting_seconds: float = Field(
        0.0, ge=0, description="for locks and the device before that, and within it while no process was at work"
    )
    busy_seconds: float = Field(0.0, ge=0, description="at work, summed over processes")
    cpu_seconds: float = Field(0.0, ge=0, description="of CPU cores, summed over processes and what they started")
    flops: float | None = Field(None, description="of the student's training and sampling; None: nothing counts them")
    bytes_written: int = Field(0, ge=0, description="given to the store, files that were made twice included")
    devices: tuple[DeviceCost, ...] = ()
    not_measured: tuple[str, ...] = Field((), description="what, and the reason")

    @property
    def device_seconds(self) -> float:
        """Seconds of all devices: eight for a second of eight."""
        return sum(device.seconds for device in self.devices)

    @property
    def joules(self) -> float | None:
        """Energy of all devices that tell it."""
        return total(device.joules for device in self.devices)

    @classmethod
    def sum(cls, costs: Iterable[Self]) -> Self:
        """Add costs; devices by their id."""
        costs = list(costs)
        counted = ("attempts", "processes", "bytes_written")
        timed = ("wall_seconds", "waiting_seconds", "busy_seconds", "cpu_seconds")
        return cls(
            **{name: sum(getattr(cost, name) for cost in costs) for name in (*counted, *timed)},
            flops=total(cost.flops for cost in costs),
            devices=_sum_devices(device for cost in costs for device in cost.devices),
            not_measured=tuple(dict.fromkeys(reason for cost in costs for reason in cost.not_measured)),
        )


def _sum_devices(devices: Iterable[DeviceCost]) -> tuple[DeviceCost, ...]:
    by_id: dict[str, list[DeviceCost]] = {}
    for device in devices:
        by_id.setdefault(device.id, []).append(device)
    return tuple(
        DeviceCost(
            id=id_,
            name=same[0].name,
            seconds=sum(device.seconds for device in same),
            busy_seconds=total(device.busy_seconds for device in same),
            joules=total(device.joules for device in same),
        )
        for id_, same in by_id.items()
    )
