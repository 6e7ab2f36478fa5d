"""Training on a Ray cluster of two machines: the bytes of torchrun and of one process, whatever is killed meanwhile."""

import logging
import os
import re
import subprocess
import sys
from asyncio import CancelledError
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightgen_core.launch import ray_train as on_ray
from lightgen_core.launch.messages import LaunchError, Message, MessageRelay
from lightgen_core.launch.ray_cluster import ClusterError, connect
from lightgen_core.launch.run import launch
from lightgen_core.metering.meter import Meter
from lightgen_core.train.train_step import NonFiniteLossError
from tasks.config.settings import Settings
from tasks.training import training_location
from tests.factories.tiny_student import CHANNELS, SIDE, write_rows
from tests.programs.launch_job import HALF, LAST, STEPS, job_in
from tests.support.contents import files_of
from tests.support.held import hold_at
from tests.support.no_outside import watched
from tests.support.paths import PROGRAMS, ROOT
from tests.support.processes import kill
from tests.support.two_nodes import two_nodes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=2)

LAUNCH = [sys.executable, str(PROGRAMS / "launch_job.py")]


@pytest.fixture(scope="module")
def hold(tmp_path_factory):
    """Holds trainings on the cluster half-way, where a test wants it."""
    return hold_at(tmp_path_factory.mktemp("hold"), HALF)


@pytest.fixture(scope="module")
def nodes(hold):
    """Two machines of two CPUs each, for all tests; one of them kills the second machine."""
    with two_nodes(cpus=2) as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", hold.path, prepend=os.pathsep)
        connect()
        yield cluster


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A folder with tokens; jobs go below it."""
    folder = tmp_path_factory.mktemp("ray")
    write_rows(folder / "tokens.parquet", rows=10)
    return folder


def environment(**changes):
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changes


def free_cpus():
    import ray

    return ray.available_resources().get("CPU", 0)


def test_processes_on_ray_end_with_a_killed_launcher(nodes, hold, tokens):
    """A rerun goes on from the checkpoint and ends with the bytes of one process."""
    torch.set_num_threads(1)
    here, job = job_in(tokens / "here", 1), job_in(tokens / "killed", 1, "ray")
    outcome = launch(here)
    (tokens / "killed.json").write_text(job.model_dump_json())
    hold.flag.touch()
    path = f"{hold.path}{os.pathsep}{ROOT}"
    command = [*LAUNCH, str(tokens / "killed.json")]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(PYTHONPATH=path))
    assert any(int(line) == STEPS // 2 for line in launcher.stdout)
    wait_until(lambda: free_cpus() == 3)
    kill(launcher)
    wait_until(lambda: free_cpus() == 4)
    hold.flag.unlink()
    again = []
    assert launch(job, on_log=again.append) == outcome
    # There is a checkpoint for each three steps; Ray lets a process go that may still name that of step 30.
    assert (again[0]["step"] in (28, 31), again[-1]["step"]) == (True, STEPS)
    assert files_of(job.location.workdir / LAST) == files_of(here.location.workdir / LAST)
    assert files_of(job.location.output_dir) == files_of(here.location.output_dir)


def test_a_lasting_error_is_raised_as_it_is_and_not_retried(nodes, tmp_path, caplog):
    latents = np.full((10, CHANNELS, SIDE, SIDE), np.inf, np.float16)
    write_rows(tmp_path / "tokens.parquet", rows=10, latents=[image.tobytes() for image in latents])
    with caplog.at_level(logging.INFO), pytest.raises(NonFiniteLossError, match=r"^step 0: the loss is not finite"):
        launch(job_in(tmp_path / "job", 1, "ray"))
    assert "start again" not in caplog.text


def test_more_processes_than_the_machines_hold_are_refused(nodes, tokens):
    with pytest.raises(
        LaunchError, match=r"wants 8 processes with 1 CPU each, and the 2 machines .* have room for 4\."
    ):
        launch(job_in(tokens / "many", 8, "ray", batch_size=8))


def test_an_interrupted_launcher_waits_for_its_processes_to_end(nodes, tokens, monkeypatch):
    fit, ended = on_ray._fit, []
    monkeypatch.setattr(on_ray, "_fit", lambda *given: ended.append(fit(*given)))

    def interrupt(row):
        raise CancelledError  # so Prefect ends a stage that has lost its slot of the device

    job = job_in(tokens / "interrupted", 1, "ray", steps=2400, log_every=24, checkpoint_every=24)
    with pytest.raises(CancelledError):
        launch(job, on_log=interrupt)
    assert len(ended) == 1 and ended[0][0] is None


def test_a_lost_machine_costs_a_restart_and_no_byte(nodes, hold, tokens, caplog):
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=1)
    class Neighbour:
        """Takes room on a machine, so that each of them holds one of two processes."""

    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in (nodes.first_id, nodes.second_id)]
    beside = [Neighbour.options(scheduling_strategy=strategy).remote() for strategy in pinned]
    wait_until(lambda: free_cpus() == 2)
    whole, job, seen = job_in(tokens / "whole", 2), job_in(tokens / "lost", 2, "ray"), []

    def on_log(row):
        seen.append(row["step"])
        if row["step"] == STEPS // 2:
            ray.kill(beside[0])
            nodes.kill_second()
            hold.flag.unlink()

    hold.flag.touch()
    with caplog.at_level(logging.INFO):
        outcome = launch(job, on_log=on_log)
    assert seen == list(range(1, STEPS + 1))
    assert "start again from the last checkpoint (1 of 3)" in caplog.text
    assert re.search("going on from step (27|30)", caplog.text)  # the other machine may have named the checkpoint of 30
    assert outcome == launch(whole)
    assert files_of(job.location.workdir / LAST) == files_of(whole.location.workdir / LAST)
    assert files_of(job.location.output_dir) == files_of(whole.location.output_dir)


def test_a_cluster_and_a_training_on_it_contact_nothing_outside(tmp_path):
    write_rows(tmp_path / "tokens.parquet", rows=10)
    job = job_in(tmp_path / "job", 1, "ray", steps=6)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    with watched(environment()) as seen:
        seen.environment.pop("RAY_ADDRESS", None)
        subprocess.run([*LAUNCH, str(tmp_path / "job.json")], env=seen.environment, check=True)
        assert {"launch_job.py", "default_worker.py", "agent.py"} <= seen.programs()
        assert seen.contacts() == []


def test_a_machine_without_the_files_names_where_they_belong(tokens, monkeypatch):
    monkeypatch.setattr(on_ray, "VISIBILITY_TIMEOUT", 0)
    job = job_in(tokens / "elsewhere", 1, "ray")
    job.location.workdir.mkdir(parents=True)
    (job.location.workdir / on_ray.TOKEN).write_text("of an earlier start")
    with pytest.raises(ValueError, match=f"does not see {job.location.workdir / on_ray.TOKEN} .* LIGHTGEN_SCRATCH"):
        on_ray._check_shared(job, "of this start")
    (job.location.workdir / on_ray.TOKEN).write_text("of this start")
    on_ray._check_shared(job, "of this start")
    with pytest.raises(ValueError, match=r"does not see .*gone\.parquet"):
        on_ray._check_shared(job.model_copy(update={"files": (tokens / "gone.parquet",)}), "of this start")


def test_the_engine_of_a_stage_is_the_launcher_of_its_training(tmp_path):
    for engine, launcher in (("local", "torchrun"), ("ray", "ray")):
        job = SimpleNamespace(settings=Settings(engine=engine), scratch=tmp_path, meter=Meter())
        assert training_location(job).launcher == launcher


def test_a_row_that_is_computed_anew_is_reported_once():
    told = []
    listener = MessageRelay(told.append)
    for step in (1, 2, 3, 2, 3, 4):
        listener.handle(Message("row", {"step": step}))
    assert [row["step"] for row in told] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:1: .* `ray start --head"),
        ("ray://127.0.0.1:10001", "not HOST:PORT"),
        ("127.0.0.1", "not HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_an_error_at_once(address, said):
    script = (
        "from lightgen_core.launch.ray_cluster import connect; import sys; assert 'ray' not in sys.modules; connect()"
    )
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, env=environment(RAY_ADDRESS=address), capture_output=True, text=True)
    assert told.returncode == 1
    with pytest.raises(ClusterError, match=said):
        raise ClusterError(told.stderr.splitlines()[-1])
