"""Several sources of captions and several teachers: shares, columns, growth, resumption, and what a recipe refuses."""

import json
import random

import pytest
import yaml

from flows.errors import UserError
from flows.load import FOLDER, load_recipe
from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import read_table
from tasks.captions import captions
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.synthesis import synthesis
from tests.factories import tiny_pipelines
from tests.factories.hostile_images import encoded_image
from tests.factories.tiny_language_model import save_tiny_language_model

pytestmark = pytest.mark.slow(rank=30)

WORLD = {"colors": ["red", "green"], "shapes": ["circle", "square", "cross"]}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two pipelines, a language model, a file of captions, and a set of images with captions of its own."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_pipelines.save_flux(folder / "flux")
    tiny_pipelines.save_sd3(folder / "sd3")
    save_tiny_language_model(folder / "lm")
    lines = [{"caption": f"a {size} {thing} at {place}"} for size in ("big", "small", "old") for thing in
             ("cat", "boat", "lamp") for place in ("dawn", "sea")]  # fmt: skip
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "set").mkdir()
    rng = random.Random(1)
    for number in range(6):
        (folder / "set" / f"{number}.jpg").write_bytes(encoded_image(rng))
        (folder / "set" / f"{number}.txt").write_text(f"painting number {number}")
    return folder


def recipe_of(folder, parts, count=60, weights=(2, 1, 1), **changes) -> Recipe:
    filters = {"min_words": 1, "allow_cut": True, "max_echoed_words": 0}
    llm = {"model": f"{parts}/lm", "dtype": "float32", "max_new_tokens": 8, "shard_size": 8, "filters": filters}
    pipeline = {"dtype": "float32", "steps": 1, "height": 16, "width": 16, "batch_size": 8}
    raw = yaml.safe_load((FOLDER / "smoke.yaml").read_text()) | {
        "world": WORLD,
        "captions": {
            "count": 32,
            "near_duplicate": 0.95,
            "sources": [
                {"name": "written", "weight": 2, "source": "llm", "llm": llm},
                {"name": "found", "source": "file", "file": {"path": f"{parts}/captions.jsonl"}},
                {"name": "painted", "source": "file", "file": {"path": f"{parts}/set"}},
            ],
        },
        "synthesis": {
            "count": count,
            "shard_size": 16,
            "balance": "captions",
            "teachers": [
                {
                    "name": "flux",
                    "weight": weights[0],
                    "teacher": "diffusers",
                    "captions": ["written", "found"],
                    "diffusers": pipeline | {"model": f"{parts}/flux"},
                },
                {
                    "name": "sd3",
                    "weight": weights[1],
                    "teacher": "diffusers",
                    "captions": ["written", "found"],
                    "diffusers": pipeline | {"model": f"{parts}/sd3"},
                },
                {
                    "name": "paintings",
                    "weight": weights[2],
                    "teacher": "files",
                    "captions": ["painted"],
                    "files": {"path": f"{parts}/set", "size": 16},
                },
            ],
        },
        "pairs": {"kind": "teacher", "scorer": "none"},
        "evaluation": {"benchmark": "prompts"},
    }
    raw["captions"] |= changes.get("captions", {})
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_recipe(str(path), changes.get("lines", ()))


def make(folder, recipe, store="store") -> tuple[Artifact, Artifact]:
    """Run captions and synthesis; return both artifacts."""
    place, settings, made = open_store(str(folder / store)), Settings(device="cpu", threads=1), []
    for stage in (captions, synthesis):
        artifact = stage.artifact(recipe, place, tuple(made))
        stage.run(recipe, settings, tuple(made), artifact)
        made.append(artifact)
    return made[0], made[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("made")
    return folder, *make(folder, recipe_of(folder, parts))


def hashes(artifact):
    return {file.name: file.sha256 for file in artifact.manifest().files}


def test_each_caption_names_its_source_and_shares_follow_weights(made):
    _, texts, _ = made
    rows = read_table(texts, "^captions").to_pylist()
    counts = texts.manifest().metrics["captions_by_source"]
    assert counts == {"written": 16, "found": 8, "painted": 6}, "the last has six, of eight that it should give"
    by_source = {name: {row["caption"] for row in rows if row["source"] == name} for name in counts}
    assert by_source["painted"] == {f"painting number {number}" for number in range(6)}
    assert all(text.startswith("a ") for text in by_source["found"])
    assert list(texts.names("^answers")) == [f"answers-written-{n:05d}.parquet" for n in range(3)]


def test_images_name_teacher_and_source_and_follow_weights(made):
    _, _, images = made
    rows = read_table(images, "^images").to_pylist()
    metrics = images.manifest().metrics
    assert metrics["images_by_teacher"] == {"flux": 31, "paintings": 6, "sd3": 15}
    assert metrics["teachers"]["paintings"] == {"wanted": 14, "planned": 6}
    assert {(row["teacher"], row["caption_source"]) for row in rows} == {
        ("flux", "written"), ("flux", "found"), ("sd3", "written"), ("sd3", "found"), ("paintings", "painted"),
    }  # fmt: skip
    assert [row["id"] for row in rows] == list(range(52))
    assert {row["source"] for row in rows if row["teacher"] == "paintings"} == set("012345")
    assert len({row["caption"] for row in rows}) == 30, "two teachers share a walk over the captions"


def test_a_kill_between_two_teachers_changes_no_byte(made, tmp_path, parts, monkeypatch):
    *_, whole = made
    load, loaded = DiffusersTeacher.load, []

    def dies_at_the_second(config, *arguments):
        loaded.append(config.model.rpartition("/")[2])
        if len(loaded) == 2:
            raise KeyboardInterrupt
        return load(config, *arguments)

    monkeypatch.setattr(DiffusersTeacher, "load", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, recipe_of(tmp_path, parts))
    _, images = make(tmp_path, recipe_of(tmp_path, parts))
    assert loaded == ["flux", "sd3", "flux", "sd3"], "the shard that was cut begins with the first"
    assert hashes(images) == hashes(whole)


def test_other_weights_take_over_the_images_that_stay(made, parts):
    folder, _, before = made
    changed = recipe_of(folder, parts, weights=(1, 2, 0))
    _, images = make(folder, changed)
    seeds = {row["seed"] for row in read_table(before, "^images", ["seed"]).to_pylist()}
    rows = read_table(images, "^images", ["seed", "teacher"]).to_pylist()
    same = sum(row["seed"] in seeds for row in rows)
    assert sum(file.reused for file in images.manifest().files) == same > 10
    assert images.manifest().metrics["images_by_teacher"] == {"flux": 21, "sd3": 39}


def test_more_images_keep_the_ones_there_are(made, parts):
    folder, _, before = made
    _, images = make(folder, recipe_of(folder, parts, count=80))
    known = set(read_table(before, "^images", ["sha256"])["sha256"].to_pylist())
    assert known <= set(read_table(images, "^images", ["sha256"])["sha256"].to_pylist())
    assert sum(file.reused for file in images.manifest().files) >= 45, "all but those of the set, which are read again"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("synthesis.teacher=files", "section synthesis.files is missing"),
        ("captions.source=llm", "source llm needs a section captions.llm with model"),
        (
            "synthesis.teachers=[{name: a}, {name: a}]",
            "teachers: two are called a; a row has to name the one that it is of",
        ),
        ("synthesis.teachers=[{name: a, weight: 0}]", "teachers: all weights are 0"),
        (
            "synthesis.teachers=[{name: a}]",
            "a draws captions of the scene world only, and would get those of source llm",
        ),
        (
            "synthesis.teachers=[{name: a, captions: [b]}]",
            "a takes captions of 'b'; captions.sources are written, found, painted",
        ),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path, parts, line, message):
    with pytest.raises(UserError) as error:
        recipe_of(tmp_path, parts, lines=[line])
    assert message in str(error.value)


def test_a_teacher_whose_captions_were_not_kept_says_so(tmp_path, parts):
    recipe = recipe_of(tmp_path, parts, captions={"sources": [
        {"name": "written", "weight": 0, "source": "file", "file": {"path": f"{parts}/captions.jsonl"}},
        {"name": "found", "weight": 0, "source": "file", "file": {"path": f"{parts}/captions.jsonl"}},
        {"name": "painted", "source": "file", "file": {"path": f"{parts}/set"}},
    ]})  # fmt: skip
    with pytest.raises(
        ValueError, match="flux takes captions of written, found, of which the stage captions kept none"
    ):
        make(tmp_path, recipe)


def test_one_teacher_and_one_source_write_the_columns_they_wrote(tmp_path):
    small = ["world.colors=[red, green]", "world.shapes=[circle, square, cross]"]
    recipe = load_recipe("smoke", ["captions.count=8", "synthesis.count=8", *small])
    _, images = make(tmp_path, recipe)
    assert read_table(images, "^images").column_names[-2:] == ["source", "sha256"]
    assert list(images.manifest().metrics) == ["quarantine"]
