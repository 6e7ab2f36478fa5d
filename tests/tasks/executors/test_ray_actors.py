"""Shards made by a Ray cluster of two nodes on this machine, one of which dies half-way."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.progress import Progress
from tasks.context.shards import split_rows
from tasks.executors.ray_actors import resources_per_worker
from tasks.executors.worker import EngineError
from tasks.stage import stage
from tasks.synthesis import synthesis
from tasks.synthesis_mix import plan_synthesis
from tests.factories.shard_workers import (
    FailsAtTwo,
    HeldSynthesisWorker,
    KilledAtTwo,
    Numbers,
    TooBlue,
    made_shards,
    make,
    noted,
)
from tests.support.contents import contents
from tests.support.paths import ROOT
from tests.support.run_stage import captions_stage, recipe_of
from tests.support.s3_server import s3_server
from tests.support.two_nodes import two_nodes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(rank=14)

ON_RAY = Settings(engine="ray", device="cpu", threads=1)


@pytest.fixture(scope="module")
def s3():
    with s3_server() as uri:
        yield uri


@pytest.fixture(scope="module")
def cluster(s3):
    with pytest.MonkeyPatch.context() as patch:
        path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        patch.setenv("PYTHONPATH", os.pathsep.join(path))  # so that workers find the makers of the tests
        with two_nodes() as nodes:
            yield nodes


def test_a_run_whose_node_dies_ends_with_the_same_bytes(cluster, tmp_path):
    """No finished shard is written twice."""
    recipe, store, notes = recipe_of(count=10, shard_size=2), open_store(str(tmp_path / "store")), tmp_path / "notes"
    said = captions_stage(["a red circle", "a blue star", "a green ring"])
    captions = said.artifact(recipe, store, ())
    said.run(recipe, ON_RAY, (), captions)
    expected = synthesis.artifact(recipe, store, (captions,))
    synthesis.run(recipe, Settings(device="cpu", threads=1), (captions,), expected)

    @stage(version=1, config_sections=("seed", "world", "synthesis"))
    def held(ctx: StageContext, captions: Artifact) -> None:
        work = plan_synthesis(ctx.recipe, captions)
        ctx.run_shards(split_rows(len(work), 2, "images", "quarantine"), HeldSynthesisWorker, work, notes)

    heard: list[Progress] = []

    def kill() -> int:
        """Kill the node that works on a shard which is held, once another is finished; then let all go on."""

        def begun() -> list[int]:
            return [each["shard"] for each in noted(notes, "began") if each["node"] == cluster.second_id]

        wait_until(lambda: any(each.done for each in heard) and any(begun()))
        lost = max(begun())
        cluster.kill_second()
        (notes / "go").touch()
        return lost

    notes.mkdir()
    artifact = held.artifact(recipe, store, (captions,))
    with ThreadPoolExecutor(1) as other:
        killed = other.submit(kill)
        held.run(recipe, ON_RAY, (captions,), artifact, on_progress=heard.append)
    assert contents(artifact) == contents(expected)
    assert made_shards(notes) == Counter(range(5)) + Counter([killed.result()])
    assert [each.done for each in heard] == list(range(6))


def test_each_worker_loads_once_and_what_it_says_is_logged_here(cluster, tmp_path, caplog):
    here, store = Settings(device="cpu", threads=1), open_store(str(tmp_path / "store"))
    with caplog.at_level("INFO", logger="tasks"):
        artifact = make(store, tmp_path / "notes", Numbers, ON_RAY)
    assert contents(artifact) == contents(make(open_store(str(tmp_path / "other")), tmp_path / "here", Numbers, here))
    assert {f"numbers: making part-{n:05d}.parquet" for n in range(4)} <= set(caplog.messages)
    loaded = noted(tmp_path / "notes", "loaded")
    assert len(loaded) == len({each["pid"] for each in loaded}) <= 2
    assert [(each["prefect"], each["gpu"]) for each in loaded] == [(False, "")] * len(loaded)


def test_the_cluster_makes_the_same_bytes_in_an_object_store(cluster, s3, tmp_path):
    made = make(open_store(s3), tmp_path / "notes", Numbers, ON_RAY)
    here = make(open_store(str(tmp_path / "here")), tmp_path / "here-notes", Numbers, Settings(device="cpu", threads=1))
    assert contents(made) == contents(here)
    assert made.check(rehash=True).state == "done"


def test_an_error_of_a_worker_is_raised_as_it_is(cluster, tmp_path):
    with pytest.raises(TooBlue) as raised:
        make(open_store(str(tmp_path / "store")), tmp_path / "notes", FailsAtTwo, ON_RAY)
    assert str(raised.value) == "part-00002.parquet is too blue"


def test_a_shard_that_kills_three_workers_is_an_error(cluster, tmp_path):
    """The other shards are kept."""
    store, notes = open_store(str(tmp_path / "store")), tmp_path / "notes"
    with pytest.raises(EngineError, match=r"3 workers died while they made part-00002.parquet"):
        make(store, notes, KilledAtTwo, ON_RAY)
    make(store, notes, Numbers, ON_RAY)
    assert made_shards(notes)[0] == made_shards(notes)[1] == 1


def test_a_worker_too_large_for_any_node_names_the_settings(cluster, tmp_path):
    much = ON_RAY.model_copy(update={"shard_cpus": 64})
    with pytest.raises(EngineError, match=r"no node .* room for a worker of 64 CPUs(.|\n)*LIGHTGEN_SHARD_CPUS"):
        make(open_store(str(tmp_path / "store")), tmp_path / "notes", Numbers, much)


@pytest.mark.parametrize(
    ("settings", "on_device", "cluster_gpus", "gpus"),
    [
        ({}, True, 4, 1),
        ({}, True, 0, 0),
        ({}, False, 4, 0),
        ({"device": "cpu"}, True, 4, 0),
        ({"shard_gpus": 0.25}, True, 4, 0.25),
        ({"shard_gpus": 0}, True, 4, 0),
    ],
)
def test_a_worker_takes_a_gpu_if_stage_and_cluster_have_one(settings, on_device, cluster_gpus, gpus):
    asked = Settings(**{"shard_cpus": 2, "device": "auto"} | settings)
    assert resources_per_worker(asked, on_device, {"CPU": 8, "GPU": cluster_gpus}) == {"CPU": 2, "GPU": gpus}
