"""The machinery that every stage runs through: caching, resuming, remaking what is damaged."""

import contextlib
import datetime

import pyarrow as pa
import pytest

from flows.load import load_recipe
from storage.artifact import Artifact, CorruptArtifact
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.scratch import Scratch
from tasks.context.shards import split_rows
from tasks.stage import InputChanged, stage
from tests.support.contents import contents

RECIPE = load_recipe("smoke")


class Stop(Exception):
    """Stands for a kill: the body goes no further."""


class Counter:
    """A stage of five shards that counts which it makes and can be told to die before one."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.die_before: str | None = None

        @stage(version=1, config_sections=("seed", "captions"))
        def captions(ctx: StageContext) -> None:
            for shard in ctx.pending_shards(split_rows(10, 2, "part")):
                if shard.name == self.die_before:
                    raise Stop
                self.made.append(shard.name)
                ctx.write_table(shard.name, pa.table({"id": list(range(shard.start, shard.stop))}), {"odd": 1})
            ctx.metrics = {"largest": 9}

        self.stage = captions

    def make(self, store: Store, recipe=RECIPE, **how) -> tuple[bool, Artifact]:
        artifact = self.stage.artifact(recipe, store, ())
        return self.stage.run(recipe, Settings(), (), artifact, **how), artifact


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def test_a_stage_runs_once_and_is_cached_after_that(store):
    counter = Counter()
    assert counter.make(store)[0] is True
    assert counter.make(store)[0] is False
    assert len(counter.made) == 5


def test_a_killed_stage_goes_on_at_the_shard_where_it_stopped(store, tmp_path):
    """It ends with the same bytes."""
    whole = Counter().make(open_store(str(tmp_path / "other")))[1]
    counter = Counter()
    counter.die_before = "part-00003.parquet"
    with pytest.raises(Stop):
        counter.make(store)
    counter.die_before = None
    artifact = counter.make(store)[1]
    assert counter.made == [f"part-{i:05d}.parquet" for i in range(5)]
    assert contents(artifact) == contents(whole)
    assert artifact.manifest().counts == whole.manifest().counts == {"rows": 10, "odd": 5}


def test_a_shard_damaged_before_the_end_is_written_again(store):
    counter = Counter()
    counter.die_before = "part-00002.parquet"
    with pytest.raises(Stop):
        counter.make(store)
    artifact = counter.stage.artifact(RECIPE, store, ())
    store.write(f"{artifact.path}/part-00000.parquet", b"rot")
    counter.die_before = None
    counter.make(store)
    assert counter.made.count("part-00000.parquet") == 2
    assert counter.made.count("part-00001.parquet") == 1
    assert artifact.check().state == "done"


def test_scratch_of_a_remote_store_lives_until_the_commit(tmp_path):
    seen = []

    @stage(version=1, config_sections=("seed",))
    def captions(ctx: StageContext) -> None:
        seen.append(ctx.scratch)
        (ctx.scratch / "checkpoint").touch()
        if len(seen) == 1:
            raise Stop
        ctx.write_table("part.parquet", pa.table({"id": [1]}))

    store, settings = open_store(f"memory://{tmp_path.name}"), Settings(scratch=str(tmp_path))
    artifact = captions.artifact(RECIPE, store, ())
    with pytest.raises(Stop):
        captions.run(RECIPE, settings, (), artifact)
    assert (seen[0] / "checkpoint").exists()
    assert captions.run(RECIPE, settings, (), artifact)
    assert seen[0] == seen[1] and not seen[0].exists()


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_an_incomplete_shard_of_a_remote_store_is_written_again(damage, tmp_path):
    store, counter = open_store(f"memory://{tmp_path.name}"), Counter()
    counter.die_before = "part-00003.parquet"
    with pytest.raises(Stop):
        counter.make(store)
    path = f"{counter.stage.artifact(RECIPE, store, ()).path}/part-00001.parquet"
    whole = store.read(path)
    store.remove(path)
    if damage == "cut":
        store.write(path, whole[:-1])
    counter.die_before, counter.made = None, []
    counter.make(store)
    assert counter.made == ["part-00001.parquet", "part-00003.parquet", "part-00004.parquet"]


@pytest.mark.parametrize("damage", ["delete", "change"])
def test_only_the_damaged_file_of_an_artifact_is_written_again(store, damage):
    counter = Counter()
    artifact = counter.make(store)[1]
    before = contents(artifact)
    if damage == "delete":
        store.remove(f"{artifact.path}/part-00001.parquet")
    else:
        store.write(f"{artifact.path}/part-00001.parquet", b"rot")
    counter.made.clear()
    assert counter.make(store)[0] is True
    assert counter.made == ["part-00001.parquet"]
    assert contents(artifact) == before


def test_refresh_writes_everything_again_with_the_same_bytes(store):
    counter = Counter()
    before = contents(counter.make(store)[1])
    began = datetime.datetime.now(datetime.UTC)
    again, artifact = counter.make(store, remake_before=began)
    assert (again, len(counter.made), contents(artifact) == before) == (True, 10, True)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_second_attempt_to_refresh_goes_on_from_the_first(kind, tmp_path):
    store = open_store(str(tmp_path / "store") if kind == "local" else f"memory://{tmp_path.name}")
    counter = Counter()
    counter.make(store)
    counter.made, counter.die_before = [], "part-00003.parquet"
    began = datetime.datetime.now(datetime.UTC)
    with pytest.raises(Stop):
        counter.make(store, remake_before=began)
    assert counter.made == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    counter.die_before = None
    assert counter.make(store, remake_before=began)[0] is True
    assert counter.made == [f"part-0000{number}.parquet" for number in range(5)]
    assert counter.make(store, remake_before=datetime.datetime.now(datetime.UTC))[0] is True
    assert len(counter.made) == 10


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_refresh_drops_earlier_checkpoints_and_keeps_its_own(kind, tmp_path):
    seen = []

    @stage(version=1, config_sections=("seed",))
    def dpo(ctx: StageContext) -> None:
        seen.append([path.name for path in ctx.scratch.iterdir()])
        (ctx.scratch / "step-00000100").touch()
        if len(seen) < 4:
            raise Stop
        ctx.write("student", b"x")

    store = open_store(str(tmp_path / "store") if kind == "local" else f"memory://{tmp_path.name}")
    settings, artifact = Settings(scratch=str(tmp_path / "scratch")), dpo.artifact(RECIPE, store, ())
    for _ in range(2):
        with pytest.raises(Stop):
            dpo.run(RECIPE, settings, (), artifact)
    now = datetime.datetime.now(datetime.UTC)
    with pytest.raises(Stop):
        dpo.run(RECIPE, settings, (), artifact, remake_before=now)
    assert dpo.run(RECIPE, settings, (), artifact, remake_before=now)
    assert seen == [[], ["step-00000100"], [], ["step-00000100"]]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_an_artifact_with_removed_records_is_not_committed(kind, tmp_path):
    store, counter = open_store(str(tmp_path / "store") if kind == "local" else f"memory://{tmp_path.name}"), Counter()
    artifact = counter.stage.artifact(RECIPE, store, ())

    class Removing(list):
        def append(self, name: str) -> None:
            super().append(name)
            if name == "part-00003.parquet":
                artifact.remove()

    counter.made = Removing()
    with pytest.raises(CorruptArtifact, match=r"part-00000\.parquet was written and is gone"):
        counter.make(store)
    assert artifact.check().state == "partial"


def test_bytes_of_a_file_that_changed_during_reading_are_dropped(store, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("a cat")

    @stage(version=1, config_sections=("seed",), files=lambda recipe: (str(file),))
    def captions(ctx: StageContext) -> None:
        ctx.write("read", file.read_bytes())
        file.write_text("a dog")

    artifact = captions.artifact(RECIPE, store, ())
    with pytest.raises(InputChanged, match=r"captions: a file that it reads was changed meanwhile \(.*captions.txt"):
        captions.run(RECIPE, Settings(), (), artifact)
    assert artifact.check().state == "missing"
    new = captions.artifact(RECIPE, store, ())
    assert captions.run(RECIPE, Settings(), (), new)


def test_a_stage_finished_during_the_wait_for_the_device_is_kept(tmp_path):
    """Another machine finished it."""
    made = []

    @stage(version=1, config_sections=("seed",), on_device=True)
    def pretrain(ctx: StageContext) -> None:
        made.append(ctx.settings.scratch)
        ctx.write("student", b"x")

    store, mine, theirs = open_store(f"memory://{tmp_path.name}"), tmp_path / "mine", tmp_path / "theirs"

    @contextlib.contextmanager
    def slot():
        other = pretrain.artifact(RECIPE, store, ())
        assert pretrain.run(RECIPE, Settings(scratch=str(theirs)), (), other)
        yield

    artifact = pretrain.artifact(RECIPE, store, ())
    assert not pretrain.run(RECIPE, Settings(scratch=str(mine)), (), artifact, device=slot)
    assert made == [str(theirs)]


def test_two_writers_of_one_machine_wait_for_each_other(tmp_path):
    """Even if the store has no locks."""
    store, settings = open_store(f"memory://{tmp_path.name}"), Settings(scratch=str(tmp_path))
    held = []

    @stage(version=1, config_sections=("seed",))
    def dpo(ctx: StageContext) -> None:
        with Scratch(ctx.artifact, settings).lock(wait=False) as mine:
            held.append(mine)
        ctx.write("student", b"x")

    dpo.run(RECIPE, settings, (), dpo.artifact(RECIPE, store, ()))
    assert held == [False]


def test_the_key_follows_what_the_stage_reads_and_nothing_else(store):
    counter = Counter()
    key = counter.stage.artifact(RECIPE, store, ()).key
    other = counter.stage.artifact(load_recipe("smoke", ["captions.count=9"]), store, ()).key
    unread = counter.stage.artifact(load_recipe("smoke", ["pretrain.steps=9"]), store, ()).key
    assert (other != key, unread == key) == (True, True)


def test_the_manifest_holds_lineage_counts_metrics_and_versions(store):
    artifact = Counter().make(store)[1]
    manifest = artifact.manifest()
    assert (manifest.stage, manifest.key, manifest.metrics) == ("captions", artifact.key, {"largest": 9})
    assert manifest.config["seed"] == RECIPE.seed
    assert {"torch", "prefect", "python"} <= manifest.software.keys()


def test_a_failing_stage_leaves_no_manifest(store):
    counter = Counter()
    counter.die_before = "part-00000.parquet"
    with pytest.raises(Stop):
        counter.make(store)
    assert counter.stage.artifact(RECIPE, store, ()).check().state == "missing"
