"""Cost of a stage, against an outside timer, the system's CPU time and sums by hand."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.load import load_recipe
from lightgen_core.launch.run import launch
from lightgen_core.metering.gpu_meter import GpuUse
from lightgen_core.metering.meter import ProcessRecord
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.scratch import Scratch
from tasks.context.spent import add_up, spent
from tasks.stage import stage
from tasks.training import training_location
from tests.factories.shard_workers import Burning, Numbers, make, noted
from tests.factories.tiny_student import write_rows
from tests.programs.launch_job import job_in
from tests.support.cpu_meter import SampledCpu
from tests.support.paths import ROOT
from tests.support.processes import kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=40)

HERE = Settings(device="cpu", threads=1)
POOL = Settings(device="cpu", threads=1, workers=2)
WAIT = 2.0


@pytest.fixture(autouse=True)
def workers_find_the_makers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@contextlib.contextmanager
def taken_device():
    """Stands for a device that another run holds for a while."""
    time.sleep(WAIT)
    yield


def record(id_: str, *busy: tuple[float, float], **changes) -> ProcessRecord:
    facts = {"attempt": "a", "is_child": id_ != "a", "host": "here", "began": "2026-01-01T00:00:00+00:00"}
    spent_ = {"seconds": 10.0, "waited": 0.0, "cpu_seconds": 1.0, "child_cpu_seconds": 0.0, "flops": None, "bytes": 5}
    return ProcessRecord(**facts | spent_ | {"id": id_, "busy": list(busy), "gpu": None} | changes)


def test_two_processes_and_a_wait_cost_what_outside_meters_say(store, tmp_path):
    started = time.monotonic()
    with SampledCpu() as outside:
        artifact = make(store, tmp_path / "notes", Burning, POOL, rows=24, device=taken_device)
    seconds = time.monotonic() - started - WAIT
    cost = artifact.manifest().cost
    assert (cost.attempts, cost.processes) == (1, 3)
    assert cost.wall_seconds == pytest.approx(seconds, rel=0.05)
    assert cost.device_seconds == pytest.approx(seconds, rel=0.05)
    assert cost.cpu_seconds == pytest.approx(outside.seconds, rel=0.05) and cost.cpu_seconds > 6
    assert cost.waiting_seconds == pytest.approx(WAIT, abs=0.05 * seconds)
    ended = {each["pid"]: 0.0 for each in noted(tmp_path / "notes", "ended")}
    for each in noted(tmp_path / "notes", "ended"):
        ended[each["pid"]] = max(ended[each["pid"]], each["at"])
    workers = sum(at - outside.seen[pid][0] for pid, at in ended.items())
    assert len(ended) == 2 and cost.busy_seconds == pytest.approx(workers, rel=0.05, abs=0.5)
    assert artifact.manifest().timings == {"seconds": cost.wall_seconds}


def test_a_killed_attempt_is_counted(store, tmp_path):
    notes = tmp_path / "notes"
    code = (
        "import pathlib; from storage.open_store import open_store; from tests.factories.shard_workers import *; "
        "from tests.tasks.context.test_spent import POOL; "
        f"make(open_store({store.uri!r}), pathlib.Path({str(notes)!r}), Burning, POOL, rows=400)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until(lambda: len(noted(notes, "ended")) >= 4)
    finally:
        kill(driver)
    (path,) = Path(store.uri).glob("numbers/*")
    artifact = Artifact(store, "numbers", path.name)
    before = spent(artifact, Scratch(artifact, HERE), on_device=True)
    assert (before.attempts, before.processes) == (1, 3) and before.cpu_seconds > 1.5
    (path / "part-00000.parquet").unlink()
    cost = make(store, notes, Numbers, HERE, rows=8).manifest().cost
    assert (cost.attempts, cost.processes) == (2, 4)
    assert cost.cpu_seconds >= before.cpu_seconds and cost.wall_seconds > before.wall_seconds
    assert cost.bytes_written > before.bytes_written > 0


def test_processes_of_a_training_are_counted(store, tmp_path):
    write_rows(tmp_path / "tokens.parquet", rows=10)

    @stage(version=1, config_sections=("seed",), on_device=True)
    def pretrain(ctx: StageContext) -> None:
        job = job_in(tmp_path / "job", 2, steps=6)
        place = training_location(ctx).model_copy(update={"parallel": job.location.parallel, "threads": 1})
        launch(job.model_copy(update={"location": place}), ctx.progress(6), ctx.meter)
        ctx.write("done", b"")

    artifact = pretrain.artifact(load_recipe("smoke"), store, ())
    with SampledCpu() as outside:
        pretrain.run(load_recipe("smoke"), HERE, (), artifact)
    cost = artifact.manifest().cost
    assert (cost.attempts, cost.processes) == (1, 3)
    assert cost.cpu_seconds == pytest.approx(outside.seconds, rel=0.05)
    assert cost.busy_seconds > 1.5 * cost.device_seconds > 0 and cost.flops > 1e6


def test_the_cost_of_a_damaged_artifact_is_kept(store, tmp_path):
    first = make(store, tmp_path / "notes", Numbers, HERE)
    store.write(f"{first.path}/part-00001.parquet", b"rot")
    cost = make(store, tmp_path / "notes", Numbers, HERE).manifest().cost
    assert cost.attempts == 2 and cost.bytes_written > first.manifest().cost.bytes_written / 2


def test_eight_gpus_are_eight_and_a_shared_one_is_one():
    gpus = [GpuUse(id=f"GPU-{n}", name="NVIDIA X", busy_seconds=5.0, joules=700.0) for n in range(8)]
    ranks = [record(f"r{n}", (0.0, 10.0), gpu=gpu) for n, gpu in enumerate(gpus)]
    cost = add_up([record("a"), *ranks], on_device=True)
    assert (cost.device_seconds, cost.busy_seconds, cost.joules, len(cost.devices)) == (80, 80, 5600, 8)
    two = [record(name, (0.0, 10.0), gpu=gpus[0]) for name in ("x", "y")]
    shared = add_up([record("a"), *two], on_device=True)
    assert (shared.device_seconds, shared.busy_seconds, shared.joules) == (10, 20, 700)
    assert add_up([record("a", (0.0, 10.0)), *ranks], on_device=False).devices == ()


def test_waiting_is_no_work():
    driver = record("a", (0.0, 1.0), (9.0, 10.0), waited=30.0)
    cost = add_up([driver, record("w", (1.0, 5.0)), record("v", (2.0, 6.0))], on_device=True)
    assert (cost.wall_seconds, cost.busy_seconds, cost.device_seconds) == (10, 10, 7)
    assert cost.waiting_seconds == 30 + 3


def test_cpu_time_of_a_child_counts_once():
    children = [record("w", cpu_seconds=4.0), record("v", cpu_seconds=5.0)]
    assert add_up([record("a", child_cpu_seconds=9.5), *children], on_device=False).cpu_seconds == 10.5
    assert add_up([record("a"), *children], on_device=False).cpu_seconds == 10
    elsewhere = record("n", is_child=False, cpu_seconds=7.0)
    assert add_up([record("a"), *children, elsewhere], on_device=False).cpu_seconds == 17


def test_flops_are_none_where_nothing_counts_them():
    assert add_up([record("a")], on_device=False).flops is None
    assert add_up([record("a", flops=3.0), record("w", flops=4.0), record("v")], on_device=False).flops == 7
