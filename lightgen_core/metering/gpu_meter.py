"""Use and energy of a GPU, as its driver tells through nvidia-ml-py, where that is installed."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

if TYPE_CHECKING:
    import torch

MISSING = "nvidia-ml-py is not installed (pip install 'lightgen[energy]')"


class GpuUse(BaseModel):
    """A GPU that a process works with. Of the seconds at work: those in which a kernel ran, and the energy.

    None: not measured, for the reason in `unmeasured`.
    """

    id: str
    name: str
    busy_seconds: float | None = None
    joules: float | None = None
    unmeasured: str = ""


@dataclass
class GpuMeter:
    """Asks the driver again and again, and adds up. Not for a process' share: a shared GPU tells of all that use it."""

    use: GpuUse
    _driver: Any = None
    _handle: Any = None
    _at: float | None = None
    _joules: float = 0.0

    @classmethod
    def of(cls, device: "torch.device") -> Self:
        """Return the meter of a CUDA device."""
        import torch

        properties = torch.cuda.get_device_properties(device)
        meter = cls(GpuUse(id=str(getattr(properties, "uuid", device)), name=properties.name))
        try:
            import pynvml
        except ImportError:
            meter.use.unmeasured = MISSING
            return meter
        try:
            pynvml.nvmlInit()
            meter._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{meter.use.id.removeprefix('GPU-')}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(meter._handle)
        except pynvml.NVMLError as error:
            meter.use.unmeasured = f"the driver does not tell: {error}"
            return meter
        meter._driver, meter.use.busy_seconds, meter.use.joules = pynvml, 0.0, 0.0
        return meter

    def sample(self, *, working: bool) -> None:
        """Add what the GPU did since the last sample, if the process was at work then and now."""
        if self._driver is None:
            return
        now, before = time.monotonic(), self._at
        try:
            joules = self._driver.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
            share = self._driver.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
        except self._driver.NVMLError as error:
            self.use = GpuUse(id=self.use.id, name=self.use.name, unmeasured=f"the driver stopped telling: {error}")
            self._driver = None
            return
        if before is not None and working:
            assert self.use.busy_seconds is not None and self.use.joules is not None, "both are set with the driver"
            self.use.busy_seconds += share * (now - before)
            self.use.joules += joules - self._joules
        self._at, self._joules = (now if working else None), joules
