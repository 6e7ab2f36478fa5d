"""The meter of one process: what counts as work, and what a GPU's driver tells."""

import sys
import types

import pytest

from lightgen_core.metering import meter as metered
from lightgen_core.metering.gpu_meter import MISSING, GpuMeter, GpuUse
from lightgen_core.metering.meter import Meter, ProcessRecord, save_to


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(metered, "_now", lambda: now[0])
    return now


def test_what_is_between_work_is_not_counted(clock):
    meter = Meter()
    with meter.running():
        clock[0] += 2
        with meter.idle():
            clock[0] += 100
        clock[0] += 3
    found = meter.record()
    assert found.busy == [(1000, 1002), (1102, 1105)] and found.seconds == 105


def test_spells_that_follow_at_once_are_one(clock):
    meter = Meter()
    for _ in range(3):
        with meter.working():
            clock[0] += 1
    assert meter._spells == [(1000, 1003)]


def test_idle_outside_of_work_is_nothing(clock):
    meter = Meter()
    with meter.idle():
        clock[0] += 5
    assert meter._spells == [] and meter._since is None


def test_a_record_is_written_at_start_and_end(tmp_path):
    meter = Meter(save_to(tmp_path), attempt="driver", is_child=True)
    with meter.running():
        (path,) = tmp_path.glob("*.json")
        first = ProcessRecord.model_validate_json(path.read_bytes())
        meter.count_flops(2.0)
        meter.count_bytes(7)
    last = ProcessRecord.model_validate_json(path.read_bytes())
    assert (first.flops, last.flops, last.bytes, last.attempt) == (None, 2.0, 7, "driver")
    assert last.seconds >= first.seconds > 0  # a child counts from its start
    assert list(tmp_path.iterdir()) == [path]


def test_a_meter_stops_once(tmp_path):
    written = []
    meter = Meter(written.append)
    with meter.running():
        meter.stop()
        count = len(written)
    assert len(written) == count == 2


def test_a_store_that_fails_meanwhile_ends_no_work(caplog):
    def save(record: bytes) -> None:
        if meter._thread is not None or meter._since is None:
            raise OSError("no room")

    meter = Meter(save)
    meter._since = 0.0
    with meter.running():
        pass
    assert "could not be recorded" in caplog.text


def driver(monkeypatch, **broken) -> list[int]:
    """Put a driver in place that tells 100 W, and kernels at work half of the time."""
    joules = [0]

    class NVMLError(Exception):
        pass

    def energy(_):
        if broken.get("energy"):
            raise NVMLError("Not Supported")
        return joules[0] * 1000

    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetUtilizationRates=lambda _: types.SimpleNamespace(gpu=50),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    properties = types.SimpleNamespace(uuid="1234", name="NVIDIA X")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: properties)
    return joules


def test_energy_and_use_are_those_of_the_time_at_work(monkeypatch):
    joules, now = driver(monkeypatch), [0.0]
    gpu = GpuMeter.of("cuda:0")
    monkeypatch.setattr("lightgen_core.metering.gpu_meter.time.monotonic", lambda: now[0])
    for working in (True, True, True, False, False, True, True):
        gpu.sample(working=working)
        now[0] += 1
        joules[0] += 100
    assert gpu.use == GpuUse(id="1234", name="NVIDIA X", busy_seconds=1.5, joules=300)


def test_what_the_driver_does_not_tell_is_named(monkeypatch):
    driver(monkeypatch, energy=True)
    gpu = GpuMeter.of("cuda:0")
    gpu.sample(working=True)
    assert (gpu.use.joules, gpu.use.unmeasured) == (None, "the driver does not tell: Not Supported")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuMeter.of("cuda:0").use.unmeasured == MISSING
