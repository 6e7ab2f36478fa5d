"""A larger recipe takes what a smaller one has made: captions, images, embeddings, tokens."""

import datetime
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.images.codec import encode_png
from lightgen_core.teachers.scene import SceneTeacher
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.stage import Stage, stage

pytest_plugins = ["tests.support.every_store"]

SMALL = {"captions.count": 40, "synthesis.count": 60, "synthesis.shard_size": 25}
LARGE = {"captions.count": 50, "synthesis.count": 110, "synthesis.shard_size": 25}
ROWS = ("synthesis", "embeddings", "tokens")


def recipe_with(changes: dict[str, object]) -> Recipe:
    return load_recipe("smoke", [f"{field}={value}" for field, value in changes.items()])


def run_until_tokens(store: Store, recipe: Recipe, again: datetime.datetime | None = None) -> dict[str, Artifact]:
    """Run the stages up to tokens, those of `ROWS` again on request."""
    made: dict[str, Artifact] = {}

    for each, _, inputs, artifact in plan(recipe, store).stages.values():
        if "tokens" not in made:
            each.run(recipe, Settings(), inputs, artifact, remake_before=again if each.name in ROWS else None)
            made[each.name] = artifact
    return made


def reused(artifacts: dict[str, Artifact]) -> dict[str, int]:
    """Return how many rows of images each stage took from other artifacts."""
    return {
        name: sum(file.reused for file in artifacts[name].manifest().files if not file.name.startswith("text"))
        for name in ROWS
    }


def hashes(artifact: Artifact) -> dict[str, str]:
    return {file.name: file.sha256 for file in artifact.manifest().files}


class Growth(NamedTuple):
    """A recipe that grew, the same made from nothing, and how many images were drawn for each."""

    store: Store
    small: dict[str, Artifact]
    grown: dict[str, Artifact]
    fresh: dict[str, Artifact]
    drawn: list[int]


@pytest.fixture(scope="module")
def growth(tmp_path_factory) -> Growth:
    patch, counts = pytest.MonkeyPatch(), []
    generate = SceneTeacher.generate

    def counting(self, captions, seeds):
        counts[-1] += len(captions)
        return generate(self, captions, seeds)

    patch.setattr(SceneTeacher, "generate", counting)
    folder = tmp_path_factory.mktemp("growth")
    store, empty = open_store(str(folder / "store")), open_store(str(folder / "empty"))
    results = []
    for where, changes in ((store, SMALL), (store, LARGE), (empty, LARGE)):
        counts.append(0)
        results.append(run_until_tokens(where, recipe_with(changes)))
    patch.undo()
    return Growth(store, *results, counts)


def test_a_larger_recipe_draws_only_what_is_new(growth):
    assert growth.drawn == [60, 50, 110]
    assert reused(growth.grown) == dict.fromkeys(ROWS, 60)
    assert reused(growth.fresh) == dict.fromkeys(ROWS, 0)


def test_what_has_grown_has_the_bytes_of_what_is_made_at_once(growth):
    for name, artifact in growth.fresh.items():
        assert growth.grown[name].key == artifact.key
        assert hashes(growth.grown[name]) == hashes(artifact), name


def test_more_captions_come_behind_those_there_are(growth):
    few, many = (read_table(run["captions"], "^captions")["caption"].to_pylist() for run in growth[1:3])
    assert (len(few), many[:40]) == (40, few)


def test_another_threshold_encodes_nothing(growth):
    looser = run_until_tokens(growth.store, recipe_with(LARGE | {"dedup.threshold": 0.97}))
    assert looser["dedup"].key != growth.grown["dedup"].key
    assert looser["tokens"].key == growth.grown["tokens"].key


def test_what_is_to_be_made_again_takes_nothing(growth, tmp_path):
    shutil.copytree(growth.store.local_path(""), tmp_path / "copy")
    again = run_until_tokens(
        open_store(str(tmp_path / "copy")), recipe_with(LARGE), datetime.datetime.now(datetime.UTC)
    )
    assert reused(again) == dict.fromkeys(ROWS, 0)


def test_a_damaged_artifact_gives_nothing(growth, tmp_path):
    shutil.copytree(growth.store.local_path(""), tmp_path / "copy")
    store = open_store(str(tmp_path / "copy"))
    for key in (growth.grown["synthesis"].key, growth.small["synthesis"].key):
        store.write(f"synthesis/{key}/images-00000.parquet", b"cut off")
    more = run_until_tokens(store, recipe_with(LARGE | {"synthesis.count": 120}))
    assert reused(more) == {"synthesis": 0, "embeddings": 110, "tokens": 110}


def test_another_teacher_draws_anew_and_keeps_the_captions(growth):
    thicker = run_until_tokens(growth.store, recipe_with(LARGE | {"world.image_size": 32}))
    assert reused(thicker) == dict.fromkeys(ROWS, 0)


def images_in(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (folder / f"{number * 37 % 101:03d}.png").write_bytes(encode_png(pixels))
        (folder / f"{number * 37 % 101:03d}.txt").write_text(f"noise number {number}")


def test_a_folder_that_grows_has_only_its_new_images_encoded(tmp_path):
    folder, prompts = tmp_path / "images", tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    source = {
        "captions.source": "file",
        "captions.near_duplicate": 1,
        "captions.count": 100,
        "synthesis.teacher": "files",
        "pairs.scorer": "clip",
        "evaluation.benchmark": "prompts",
    }
    files = {
        f"{section}.{field}": value
        for section in ("captions.file", "synthesis.files")
        for field, value in (("path", folder), ("format", "folder"))
    }
    recipe, store = recipe_with(source | files | {"synthesis.shard_size": 10}), open_store(str(tmp_path / "store"))
    images_in(folder, range(24))
    first = run_until_tokens(store, recipe)
    images_in(folder, range(24, 31))
    second = run_until_tokens(store, recipe)
    assert [run["synthesis"].manifest().counts["rows"] for run in (first, second)] == [24, 31]
    assert reused(second) == {"synthesis": 0, "embeddings": 24, "tokens": 24}


class Squares:
    """Writes the squares of its rows, none twice: those that earlier artifacts hold are taken from there."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx, self.earlier = ctx, ctx.earlier_rows("^part", ("id",))

    def __call__(self, shard: RowRangeShard) -> None:
        def make(positions: list[int]) -> pa.Table:
            return pa.table({"square": [(shard.start + position) ** 2 for position in positions]})

        ids = pa.table({"id": list(range(shard.start, shard.stop))})
        squares, reused = self.earlier.complete(ids, ["square"], make)
        table = ids.append_column("square", squares["square"])
        self.ctx.write_table(shard.name, table, address=shard.address, reused=reused)


def squares_of(rows: int) -> Stage:
    @stage(version=1, config_sections=("captions", "pairs"), count_fields=("captions.count",))
    def squares(ctx: StageContext) -> None:
        ctx.run_shards(split_rows(rows, 4, "part", address=lambda *rows: ctx.row_config.address(rows)), Squares)

    return squares


def run_squares(store: Store, rows: int, **changes: object) -> Artifact:
    recipe, of = recipe_with({"captions.count": rows, **changes}), squares_of(rows)
    artifact = of.artifact(recipe, store, ())
    of.run(recipe, Settings(), (), artifact)
    return artifact


def test_shards_and_rows_are_taken_over_in_any_store(store):
    """Two whole shards by address, two rows of the third by key; as many new ones."""
    small, large = run_squares(store, 10), run_squares(store, 15)
    assert [file.reused for file in small.manifest().files] == [0, 0, 0]
    assert [file.reused for file in large.manifest().files] == [4, 4, 2, 0]
    assert read_table(large, "^part")["square"].to_pylist() == [number**2 for number in range(15)]
    assert (small.check(rehash=True).state, large.check(rehash=True).state) == ("done", "done")


def test_what_was_taken_over_outlives_what_it_came_from(store):
    small, large = run_squares(store, 10), run_squares(store, 15)
    small.remove()
    assert large.check(rehash=True).state == "done"
    assert run_squares(store, 8).manifest().reused == 8


def test_rows_of_another_configuration_are_not_taken(store):
    run_squares(store, 10)
    assert run_squares(store, 10, **{"pairs.count": 7}).manifest().reused == 0
