"""Shards made by a pool of processes equal those made in this one, and nothing of it is lost or left over."""

import ctypes
import json
import os
import pickle
import subprocess
import sys
import threading
from asyncio import CancelledError
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.distill import STAGES
from flows.load import load_recipe
from flows.operations.retries import is_transient
from flows.plan import plan
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import InvalidSettings, Settings
from tasks.context.context import StageContext
from tasks.context.progress import Progress
from tasks.context.reuse import RowConfig
from tasks.context.shards import split_rows
from tasks.executors import select as engine
from tasks.executors.worker import EngineError, RemoteError
from tests.factories.shard_workers import (
    FailsAtTwo,
    FailsUnportably,
    Held,
    KilledAtTwo,
    Numbers,
    TooBlue,
    made_shards,
    make,
    noted,
)
from tests.support.contents import contents
from tests.support.paths import ROOT
from tests.support.processes import is_running, kill
from tests.support.s3_server import s3_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=8)

HERE = Settings(device="cpu", threads=1)
POOL = Settings(device="cpu", threads=1, workers=2)


@pytest.fixture(autouse=True)
def workers_find_the_makers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def notes(tmp_path):
    return tmp_path / "notes"


def expected(tmp_path: Path) -> dict[str, str]:
    """Return what `Numbers` makes in this process."""
    return contents(make(open_store(str(tmp_path / "expected")), tmp_path / "expected-notes", Numbers, HERE))


SMALL = (
    "captions.count=60",
    "synthesis.count=60",
    "synthesis.shard_size=20",
    "tokens.sizes=[16, 32]",
    "dedup.recall_queries=60",
    "dedup.diversity_sample=60",
    "pretrain.steps=2",
    "pairs.count=6",
    "pairs.shard_size=2",
    "dpo.steps=1",
    "evaluation.per_category=2",
    "evaluation.shard_size=8",
)
FANNED = {"synthesis": 3, "embeddings": 3, "tokens": 3, "pairs": 3, "evaluation": 3}


def test_two_workers_write_the_bytes_of_one_in_every_stage(tmp_path):
    recipe, one, two = load_recipe("smoke", SMALL), open_store(str(tmp_path / "one")), open_store(str(tmp_path / "two"))
    made: dict[str, dict[str, str]] = {}
    shards: dict[str, int] = {}
    for settings, store in ((HERE, one), (POOL, two)):
        places = plan(recipe, store)
        for stage in STAGES[:-1]:
            artifact, inputs = places.statuses[stage.name][0], places.inputs[stage.name]
            heard: list[Progress] = []
            given = tuple(places.statuses[name][0] for name in inputs)
            stage.run(recipe, settings, given, artifact, on_progress=heard.append)
            if stage.name in FANNED:
                shards[stage.name] = heard[-1].done
                same = made.setdefault(stage.name, contents(artifact))
                assert contents(artifact) == same
                assert artifact.manifest().metrics == plan(recipe, one).statuses[stage.name][0].manifest().metrics
    assert shards == FANNED


@pytest.mark.parametrize(
    ("changes", "on_device", "workers"),
    [
        ({}, True, 3),
        ({"device": "cuda"}, True, 3),
        ({"device": "cuda:1"}, True, 1),
        ({"device": "cpu"}, True, 1),
        ({"workers": 2}, True, 2),
        ({"engine": "ray"}, True, 1),
        ({}, False, 1),
    ],
)
def test_left_out_there_is_a_worker_for_each_gpu(store, monkeypatch, changes, on_device, workers):
    monkeypatch.setattr("lightgen_core.device.visible_gpus", lambda: ["0", "1", "2"])
    row_config = RowConfig(1, {}, ())
    for place, expected in ((store, workers), (open_store("memory://workers"), changes.get("workers", 1))):
        artifact = Artifact(place, "numbers", "0" * 20)
        ctx = StageContext(load_recipe("smoke"), Settings(**changes), artifact, row_config, on_device=on_device)
        assert ctx.workers == expected


def test_a_machine_with_two_gpus_uses_both(store, notes, monkeypatch):
    """Nobody set a number of workers."""
    monkeypatch.setattr("lightgen_core.device.visible_gpus", lambda: ["GPU-a", "GPU-b"])
    make(store, notes, Numbers, Settings(device="auto", threads=1))
    loaded = noted(notes, "loaded")
    assert len({each["pid"] for each in loaded}) == 2 and {each["gpu"] for each in loaded} == {"GPU-a", "GPU-b"}


def test_the_watcher_hears_of_every_shard_once(store, notes, caplog, tmp_path):
    """Log lines of workers are logged here."""
    heard: list[Progress] = []
    with caplog.at_level("INFO", logger="tasks"):
        artifact = make(store, notes, Numbers, POOL, on_progress=heard.append)
    assert [(each.done, each.total, each.rows) for each in heard] == [(n, 4, 2 * n) for n in range(5)]
    assert {f"numbers: making part-{n:05d}.parquet" for n in range(4)} <= set(caplog.messages)
    assert contents(artifact) == expected(tmp_path)
    assert artifact.manifest().counts == {"rows": 8, "odd": 4}


def test_each_worker_loads_once_and_without_prefect(store, notes):
    """There are no more workers than shards."""
    many = POOL.model_copy(update={"workers": 6})
    make(store, notes, Numbers, many, rows=6)
    loaded = noted(notes, "loaded")
    assert len(loaded) == len({each["pid"] for each in loaded}) <= 3
    assert not any(each["prefect"] for each in loaded)
    assert os.getpid() not in {each["pid"] for each in loaded}


def test_worker_i_works_on_gpu_i_modulo_their_number(store, notes, monkeypatch):
    monkeypatch.setattr("lightgen_core.device.visible_gpus", lambda: ["GPU-a", "GPU-b"])
    make(store, notes, Numbers, POOL.model_copy(update={"workers": 3, "device": "auto"}), rows=30)
    assert {each["gpu"] for each in noted(notes, "loaded")} <= {"GPU-a", "GPU-b"}


def test_a_killed_worker_is_an_error_that_names_the_shard(store, notes, tmp_path):
    """A rerun writes only what is left."""
    with pytest.raises(EngineError, match=r"made part-00002.parquet was killed \(signal 9\)(.|\n)*are kept"):
        make(store, notes, KilledAtTwo, POOL)
    (path,) = Path(store.uri).glob("numbers/*")
    finished = Artifact(store, "numbers", path.name).records()
    assert "part-00002.parquet" not in finished
    first = made_shards(notes)
    artifact = make(store, notes, Numbers, POOL)
    assert contents(artifact) == expected(tmp_path)
    again = {f"part-{shard:05d}.parquet" for shard in made_shards(notes) - first}
    assert again == contents(artifact).keys() - finished.keys()


@pytest.mark.parametrize("settings", [HERE, POOL], ids=["here", "pool"])
def test_an_error_of_a_worker_is_raised_as_it_is(store, notes, settings):
    with pytest.raises(TooBlue) as raised:
        make(store, notes, FailsAtTwo, settings)
    assert str(raised.value) == "part-00002.parquet is too blue"


def test_an_error_of_a_worker_arrives_with_what_caused_it():
    def failing() -> None:
        try:
            raise ConnectionResetError("reset by peer")
        except ConnectionResetError as error:
            raise TooBlue("part-00002.parquet") from error

    with pytest.raises(TooBlue) as raised:
        failing()
    arrived = pickle.loads(pickle.dumps(RemoteError.of(raised.value))).error()
    assert [type(arrived), type(arrived.__cause__)] == [TooBlue, ConnectionResetError]
    assert is_transient(arrived)  # so a stage is tried again wherever the connection broke


def test_an_error_that_cannot_travel_is_raised_as_its_text(store, notes):
    with pytest.raises(RuntimeError) as raised:
        make(store, notes, FailsUnportably, POOL)
    assert str(raised.value) == "Unportable: this and that"
    assert "line" in raised.value.__notes__[0]  # where it was raised, for --debug


def test_workers_end_with_a_driver_that_is_killed(tmp_path, notes):
    code = (
        "import pathlib; from storage.open_store import open_store; from tests.factories.shard_workers import *; "
        "from tests.tasks.executors.test_process_pool import POOL; "
        f"make(open_store({str(tmp_path / 'store')!r}), pathlib.Path({str(notes)!r}), Held, POOL)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until(lambda: len(noted(notes, "began")) == 2)
    finally:
        kill(driver)
    workers = {each["pid"] for each in noted(notes, "began")}
    wait_until(lambda: not any(map(is_running, workers)))


def test_workers_end_with_a_stage_that_is_interrupted(store, notes):
    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(store, notes, Numbers, POOL, rows=400, on_progress=interrupt)
    assert not any(is_running(each["pid"]) for each in noted(notes, "loaded"))


def test_a_pool_makes_the_same_bytes_in_an_object_store(notes, tmp_path):
    with s3_server() as uri:
        made = make(open_store(uri), notes, Numbers, POOL)
        assert contents(made) == expected(tmp_path)
        assert made.check(rehash=True).state == "done"
    assert len(noted(notes, "loaded")) == 2


def test_workers_end_with_a_stage_interrupted_within_a_shard(store, notes):
    """So Prefect ends a stage that has lost its slot of the device: the error is raised at the next line of Python."""
    here = ctypes.c_ulong(threading.get_ident())

    def interrupt() -> None:
        wait_until(lambda: len(noted(notes, "began")) == 2)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(here, ctypes.py_object(CancelledError))

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(CancelledError):
        make(store, notes, Held, POOL)
    thread.join()
    assert not any(is_running(each["pid"]) for each in noted(notes, "began"))


def test_a_store_in_memory_is_refused_with_the_setting_to_change(notes):
    with pytest.raises(InvalidSettings, match="with LIGHTGEN_WORKERS=2 others work on it too; set LIGHTGEN_STORE to"):
        make(open_store("memory://engine"), notes, Numbers, POOL)


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("LIGHTGEN_ENGINE", "local")  # the command sets it: put back afterwards
    result = CliRunner().invoke(cli, ["run", "smoke", "--store", str(tmp_path), "--engine", "ray"])
    assert isinstance(result.exception, InvalidSettings)
    assert "pip install 'lightgen[ray]'" in str(result.exception)


def test_workers_share_the_cores_and_the_limits_of_an_endpoint(monkeypatch):
    """A number of threads that the settings give is not shared."""
    monkeypatch.delenv("LIGHTGEN_THREADS")
    asked = {"endpoint_requests_per_minute": 60, "endpoint_concurrency": 8}
    shared = Settings(**asked).for_worker(4, threads=3)
    given = (shared.endpoint_requests_per_minute, shared.endpoint_concurrency, shared.threads)
    assert given == (15, 2, 3)
    assert Settings(threads=5).for_worker(4, threads=3).threads == 5
    assert (
        Settings().for_worker(16, threads=0).endpoint_concurrency == Settings().for_worker(16, threads=0).threads == 1
    )


def test_shards_are_made_by_the_executor_that_is_handed_in(store, notes):
    def backwards(ctx, shards, worker, inputs):
        for shard in reversed(shards):
            worker(ctx.for_worker(HERE), *inputs)(shard)
            yield shard

    artifact = make(store, notes, Numbers, HERE)
    artifact.remove()
    ctx = StageContext(load_recipe("smoke"), HERE, artifact, execute=backwards)
    ctx.run_shards(split_rows(6, 2, "part"), Numbers, notes)
    begun = sorted((path.stat().st_mtime_ns, json.loads(path.read_text())["shard"]) for path in notes.glob("began-*"))
    assert [shard for _, shard in begun][-3:] == [2, 1, 0]
    assert ctx.for_worker(HERE).execute is None
