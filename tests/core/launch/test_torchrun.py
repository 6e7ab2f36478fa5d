"""A training job in words: done in this process, or in two that torchrun starts."""

import os
import select
import subprocess
import sys
from asyncio import CancelledError
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightgen_core.config import ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.launch import __main__ as process
from lightgen_core.launch import torchrun
from lightgen_core.launch.job import StudentCheckpoint, TrainingJob
from lightgen_core.launch.messages import MARK, MessageRelay, read, send
from lightgen_core.launch.run import launch
from lightgen_core.model.save import load_student
from lightgen_core.train.train_step import NonFiniteLossError
from tasks.config.settings import Settings
from tests.factories.tiny_student import CHANNELS, PATCH, SIDE, write_rows
from tests.programs.launch_job import HALF, LAST, STEPS, job_in
from tests.support.contents import files_of
from tests.support.held import hold_at
from tests.support.paths import PROGRAMS, ROOT
from tests.support.processes import kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the tokens, a job done by two processes, its outcome, and the rows that were seen meanwhile."""
    folder = tmp_path_factory.mktemp("launch")
    write_rows(folder / "tokens.parquet", rows=10)
    job, seen = job_in(folder / "whole", 2), []
    return folder, job, launch(job, on_log=seen.append), seen


def processes_of(job):
    """Processes that were given a job's description."""
    needle = str(job.location.workdir / "job.json").encode()
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if _read(path).count(needle)]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_every_row_of_the_log_is_seen_while_two_processes_train(whole):
    _, _, outcome, seen = whole
    assert [row["step"] for row in seen] == list(range(1, STEPS + 1))
    assert [{name: row[name] for name in ("step", "loss")} for row in seen] == [
        {name: row[name] for name in ("step", "loss")} for row in outcome.rows
    ]
    assert seen[0].keys() - outcome.rows[0].keys() == {"seconds", "images_per_second", "flops"}
    assert (outcome.step, outcome.stopped, outcome.examples) == (STEPS, None, 10)


def test_the_launched_student_is_that_of_the_last_checkpoint(whole):
    _, job, outcome, _ = whole
    student, info = load_student(job.location.output_dir, weights="raw")
    saved = load_file(job.location.workdir / LAST / "model.safetensors")
    assert info == {"patch": PATCH} and outcome.parameters == sum(tensor.numel() for tensor in saved.values())
    assert all(tensor.equal(student.state_dict()[name]) for name, tensor in saved.items())
    averages = load_file(job.location.workdir / LAST / "ema.safetensors")
    averaged = load_student(job.location.output_dir)[0].state_dict()
    assert all(tensor.equal(averaged[name]) for name, tensor in averages.items())


def test_a_killed_launcher_takes_its_processes_with_it(whole, tmp_path):
    """A rerun goes on from the checkpoint and ends with the same bytes."""
    folder, done, outcome, _ = whole
    job = job_in(folder / "killed", 2)
    (folder / "killed.json").write_text(job.model_dump_json())
    command = [sys.executable, str(PROGRAMS / "launch_job.py"), str(folder / "killed.json")]
    hold = hold_at(tmp_path, HALF)
    hold.flag.touch()
    environment = os.environ | {"PYTHONPATH": f"{hold.path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert any(int(line) == STEPS // 2 for line in launcher.stdout)
    assert len(processes_of(job)) >= 2
    kill(launcher)
    wait_until(lambda: not processes_of(job))
    again = []
    assert launch(job, on_log=again.append) == outcome
    assert again[0]["step"] == 28  # after the last of the checkpoints, one for each three steps
    assert files_of(job.location.workdir / LAST) == files_of(done.location.workdir / LAST)
    assert files_of(job.location.output_dir) == files_of(done.location.output_dir)


def test_an_interrupted_launcher_waits_for_its_processes_to_end(whole):
    folder, *_ = whole
    job = job_in(folder / "interrupted", 2)

    def interrupt(row):
        raise CancelledError  # so Prefect ends a stage that has lost its slot of the device

    with pytest.raises(CancelledError):
        launch(job, on_log=interrupt)
    assert processes_of(job) == []


def test_an_error_of_a_launched_process_is_raised_here_as_it_is(tmp_path):
    latents = np.random.default_rng(0).standard_normal((10, CHANNELS, SIDE, SIDE)).astype(np.float16)
    latents[7, 1, 2, 3] = np.inf
    file = write_rows(tmp_path / "tokens.parquet", rows=10, latents=[image.tobytes() for image in latents])
    source = TokenSource([file], patch=PATCH, batch_size=4, seed=7)
    bad = next(step for step in range(6) if 107 in source.batch(step).ids)
    with pytest.raises(NonFiniteLossError, match=f"^step {bad}: the loss is not finite, rows 107;"):
        launch(job_in(tmp_path / "job", 2))


def test_one_process_is_this_one_and_needs_no_launcher(tmp_path, whole, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    torch.set_num_threads(1)
    write_rows(tmp_path / "tokens.parquet", rows=10)
    first = job_in(tmp_path / "first", 1, steps=6)
    assert launch(first).step == 6
    assert load_student(first.location.output_dir)[1] == {"patch": PATCH}


def test_a_job_can_start_from_a_saved_student(whole):
    """Its first loss is that of a trained student, and what its config.json tells is carried over."""
    folder, done, outcome, _ = whole
    job = job_in(folder / "further", 1, steps=6).model_copy(
        update={"student": StudentCheckpoint(folder=done.location.output_dir, weights="raw"), "info": None}
    )
    rows = launch(job).rows
    fresh = launch(job_in(folder / "fresh", 1, steps=6)).rows
    assert rows[0]["loss"] != fresh[0]["loss"] and fresh[0]["loss"] == pytest.approx(outcome.rows[0]["loss"], rel=1e-6)
    assert load_student(job.location.output_dir)[1] == {"patch": PATCH}


def test_a_job_survives_its_way_through_json(whole):
    _, job, _, _ = whole
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job


def test_a_batch_that_does_not_divide_is_refused_before_a_start(whole, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ValueError, match="does not divide among 3 processes"):
        launch(job_in(whole[0] / "three", 3))


def test_a_dead_process_leaves_its_last_lines_and_first_error():
    lines = ["Segmentation fault\n", f'{MARK}["error", {{"kind": "OSError", "text": "gone"}}]\n', "\n", "more\n"]
    lines.append(f'{MARK}["error", {{"kind": "RuntimeError", "text": "peer closed"}}]\n')
    listener = MessageRelay(None)
    assert torchrun._follow(lines, listener) == ["Segmentation fault", "more"]
    assert listener.error == {"kind": "OSError", "text": "gone"}


@pytest.mark.parametrize("kind", ["log", "error"])
def test_a_message_of_any_length_is_one_piece_no_pipe_tears(kind, monkeypatch):
    written = []
    monkeypatch.setattr("os.write", lambda _, data: written.append(data))
    for text in ("я" * 5000, "x" * 100_000, 'short "and"\nwhole'):
        send(kind, {"level": 20, "text": text})
        line = written.pop()
        assert len(line) <= select.PIPE_BUF
        assert line[:1] + line[-1:] == b"\n\n" and line.count(b"\n") == 2
        found = read(line.decode().strip())
        assert (found.kind, found.content["level"]) == (kind, 20)
        assert text.startswith(found.content["text"])
        assert found.content["text"] == text or len(line) > 0.85 * select.PIPE_BUF


def test_a_line_that_a_library_printed_into_is_kept_as_printed():
    torn, listener = f'{MARK}["error", {{"kind": "RunSegmentation fault\n', MessageRelay(None)
    assert torchrun._follow([torn], listener) == [torn.strip()]
    assert listener.error is None


def test_the_layout_comes_from_the_environment(monkeypatch):
    assert Settings().train == ParallelConfig()
    monkeypatch.setenv("LIGHTGEN_TRAIN__PROCESSES", "2")
    monkeypatch.setenv("LIGHTGEN_TRAIN__PARALLEL", "fsdp")
    assert Settings().train == ParallelConfig(processes=2, parallel="fsdp")


@pytest.mark.parametrize(("gpus", "expected"), [(2, torch.device("cuda", 1)), (1, None)])
def test_a_process_takes_its_gpu_before_it_connects(monkeypatch, gpus, expected):
    """And is bound to it, so that NCCL does not guess; one without a GPU is left to the error of `train`."""
    calls = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(
        process.dist, "init_process_group", lambda backend, device_id: calls.append((backend, device_id))
    )
    process._connect("auto")
    assert calls == [("set_device", expected)] * (expected is not None) + [("cpu:gloo,cuda:nccl", expected)]
