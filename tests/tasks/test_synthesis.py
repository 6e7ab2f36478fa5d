"""The synthesis stage: what is planned, what is quarantined, what a kill loses, and what enters the key."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml

from flows.errors import UserError
from flows.load import load_recipe
from lightgen_core.captioning.scene import scene_captions
from lightgen_core.images.codec import decode_image, encode_png
from lightgen_core.scene.config import World
from lightgen_core.teachers.scene import SceneTeacher
from storage.open_store import open_store
from storage.tables import read_table
from tasks.captions import captions
from tasks.config.sections import Synthesis
from tasks.config.settings import Settings
from tasks.context.digests import ContentNotFound
from tasks.dedup import dedup
from tasks.embeddings import embeddings
from tasks.synthesis import NoImagesError, synthesis
from tasks.tokens import tokens
from tests.factories import tiny_pipelines
from tests.factories.hostile_images import encoded_image
from tests.support.run_stage import captions_stage, recipe_of, run_recipe, run_synthesis

pytestmark = pytest.mark.slow(rank=15)

SETTINGS = Settings(device="cpu", threads=1)


def write_folder(root: Path, count: int, captions: int = 100, damaged: tuple[int, ...] = ()) -> Path:
    """Images 000.jpg ... with the captions `thing 0` ... repeated; returns the folder."""
    root.mkdir()
    rng = random.Random(1)
    for n in range(count):
        data = encoded_image(rng)
        (root / f"{n:03}.jpg").write_bytes(data[:200] if n in damaged else data)
        (root / f"{n:03}.txt").write_text(f" thing  {n % captions}\n")
    return root


def things(count: int) -> list[str]:
    return [f"thing {n}" for n in range(count)]


def test_only_samples_of_kept_captions_are_used(tmp_path):
    """The others are counted."""
    root = write_folder(tmp_path / "set", 20, captions=10)
    made = run_synthesis(tmp_path, ["thing 3", "thing 7", "never seen"], path=root, format="folder")
    assert made.images["source"].to_pylist() == ["003", "007", "013", "017"]
    assert made.images["caption"].to_pylist() == ["thing 3", "thing 7"] * 2
    assert made.images["caption_id"].to_pylist() == [10, 11] * 2
    assert made.images["seed"].to_pylist() == [None] * 4
    assert made.manifest.counts == {
        "rows": 4,
        "quarantined": 0,
        "caption_filtered_out": 16,
        "surplus": 0,
        "captions_unused": 1,
    }
    assert made.images["image"][0].as_py() == {"bytes": (root / "003.jpg").read_bytes(), "path": "000000000.jpg"}


def test_no_more_than_count_are_taken(tmp_path):
    made = run_synthesis(tmp_path, things(10), path=write_folder(tmp_path / "set", 20), format="folder", count=7)
    assert made.images["source"].to_pylist() == [f"{n:03}" for n in range(7)]
    counts = {"rows": 7, "quarantined": 0, "caption_filtered_out": 10, "surplus": 3, "captions_unused": 3}
    assert made.manifest.counts == counts


def test_a_rejected_image_leaves_its_id_unused(tmp_path):
    """The others keep theirs."""
    root = write_folder(tmp_path / "set", 10, damaged=(0, 4, 9))
    made = run_synthesis(tmp_path, things(10), path=root, format="folder", shard_size=3)
    assert made.images["id"].to_pylist() == [1, 2, 3, 5, 6, 7, 8]
    assert made.quarantine.select(["id", "source", "caption", "reason"]).to_pylist() == [
        {"id": n, "source": f"{n:03}", "caption": f"thing {n}", "reason": "image cut short"} for n in (0, 4, 9)
    ]
    assert made.manifest.counts["rows"] == 7
    assert made.manifest.metrics == {"quarantine": {"image cut short": 3}}
    assert made.artifact.names("^quarantine") == [f"quarantine-{n:05d}.parquet" for n in range(4)]


def test_images_stay_as_they_are_unless_the_recipe_gives_a_size(tmp_path):
    root = write_folder(tmp_path / "set", 3, damaged=(0,))
    (root / "002.jpg").write_bytes(encoded_image(random.Random(2), size=(60, 50)))
    for size, shapes in ((None, [(48, 48, 3), (50, 60, 3)]), (32, [(32, 32, 3), (32, 32, 3)])):
        made = run_synthesis(tmp_path, things(3), path=root, format="folder", size=size)
        assert [decode_image(each["bytes"]).shape for each in made.images["image"].to_pylist()] == shapes


def test_a_set_without_a_usable_image_fails_the_stage(tmp_path):
    """The error names the commonest reason."""
    root = write_folder(tmp_path / "set", 5, damaged=(0, 1, 2, 3))
    (root / "004.jpg").write_bytes(b"none")
    with pytest.raises(NoImagesError, match="not one image: 5 in quarantine, most often: image cut short"):
        run_synthesis(tmp_path, things(5), path=root, format="folder")
    with pytest.raises(NoImagesError, match=r"not one image: 0 in quarantine; .*'caption_filtered_out': 5"):
        run_synthesis(tmp_path, ["another caption"], path=root, format="folder")


@pytest.mark.parametrize("lost", ["images-00001.parquet", "quarantine-00001.parquet"])
def test_a_shard_that_lost_one_of_two_files_gets_the_same_bytes(tmp_path, lost):
    root = write_folder(tmp_path / "set", 9, damaged=(4,))
    made = run_synthesis(tmp_path, things(9), path=root, format="folder", shard_size=3)
    before = {file.name: file.sha256 for file in made.manifest.files}
    made.artifact.store.remove(f"{made.artifact.path}/{lost}")
    assert made.artifact.check().state == "damaged"
    again = run_synthesis(tmp_path, things(9), path=root, format="folder", shard_size=3)
    assert {file.name: file.sha256 for file in again.manifest.files} == before
    assert again.manifest.counts == made.manifest.counts


def test_the_key_follows_the_sets_content_and_not_file_times(tmp_path):
    root = write_folder(tmp_path / "set", 3)
    recipe = recipe_of(teacher="files", files={"path": str(root), "format": "folder"})

    def key() -> str:
        store = open_store(str(tmp_path / "store"))
        return synthesis.artifact(recipe, store, (captions_stage([]).artifact(recipe, store, ()),)).key

    before = key()
    (root / "001.txt").touch()
    assert key() == before
    (root / "001.txt").write_text(" thing  2\n")  # the size stays
    assert key() != before


@pytest.mark.parametrize("teacher", ["diffusers", "files", "endpoint"])
def test_a_teacher_without_its_section_is_an_error_that_names_it(teacher):
    with pytest.raises(UserError, match=f"synthesis.{teacher} is missing"):
        load_recipe("smoke", [f"synthesis.teacher={teacher}"])


def test_a_pipeline_draws_the_same_image_in_any_shard(tmp_path):
    folder = tiny_pipelines.save_flux(tmp_path / "flux")
    pipeline = {"model": str(folder), "dtype": "float32", "steps": 1, "height": 32, "width": 32, "batch_size": 1}

    def run(shard_size: int):
        asked = {"teacher": "diffusers", "count": 4, "shard_size": shard_size, "diffusers": pipeline}
        return run_recipe(tmp_path, things(4), recipe_of(**asked), SETTINGS)

    one, two = run(1), run(3)
    assert one.images["sha256"].to_pylist() == two.images["sha256"].to_pylist()
    assert len(set(one.images["sha256"].to_pylist())) == 4
    assert one.manifest.metrics == {"quarantine": {}, "pipeline": "FluxPipeline"}
    assert len(one.manifest.config["weights"][str(folder)]) == 64


def test_a_prompt_that_the_pipeline_cannot_take_is_quarantined(tmp_path, monkeypatch):
    from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

    call = DiffusersTeacher._call

    def fails_on_two(self, prompts, seeds):
        if "thing 2" in prompts:
            raise ValueError("this prompt cannot be drawn")
        return call(self, prompts, seeds)

    monkeypatch.setattr(DiffusersTeacher, "_call", fails_on_two)
    folder = tiny_pipelines.save_flux(tmp_path / "flux")
    pipeline = {"model": str(folder), "dtype": "float32", "steps": 1, "height": 32, "width": 32}
    made = run_recipe(
        tmp_path, things(4), recipe_of(teacher="diffusers", count=4, balance="captions", diffusers=pipeline), SETTINGS
    )
    assert made.images["caption"].to_pylist() == ["thing 0", "thing 1", "thing 3"]
    assert made.quarantine.to_pylist() == [
        {
            "id": 2,
            "source": "diffusers",
            "caption": "thing 2",
            "reason": "the teacher failed on the prompt",
            "detail": "ValueError: this prompt cannot be drawn",
        }
    ]


def test_the_command_line_runs_a_recipe_with_a_pipeline(tmp_path):
    """As the teacher."""
    folder = tiny_pipelines.save_flux(tmp_path / "flux")
    pipeline = {"model": str(folder), "dtype": "float32", "steps": 1, "height": 48, "width": 48, "guidance_scale": 3.5}
    recipe = {
        "captions": {"count": 6},
        "synthesis": {"teacher": "diffusers", "count": 6, "shard_size": 4, "diffusers": pipeline},
    }
    (tmp_path / "flux.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "flows", "run", str(tmp_path / "flux.yaml"), "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, "--until", "synthesis"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (artifact,) = (tmp_path / "store" / "synthesis").iterdir()
    names = {"images-00000.parquet", "images-00001.parquet", "quarantine-00000.parquet", "quarantine-00001.parquet"}
    assert {path.name for path in artifact.iterdir()} == {*names, "manifest.json"}


def test_a_set_that_is_not_there_is_the_callers_mistake(tmp_path):
    asked = ["synthesis.teacher=files", f"synthesis.files={{path: {tmp_path}/nowhere, format: folder}}"]
    overrides = [word for each in asked for word in ("--set", each)]
    command = [sys.executable, "-m", "flows", "plan", "smoke", "--store", str(tmp_path), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "nowhere, which the recipe names" in done.stderr) == (2, True)


def flickr(root: Path, images: int) -> tuple[Path, Path, list[str]]:
    """A folder of images, and beside it a table of five captions of each, all of which are returned."""
    write_folder(root / "Images", images)
    for path in (root / "Images").glob("*.txt"):
        path.unlink()
    rows = [(f"{n:03}.jpg", f"view {turn} of thing {n}") for n in range(images) for turn in range(5)]
    table = root / "captions.txt"
    table.write_text("image,caption\n" + "".join(f"{name},{text}\n" for name, text in rows))
    return root / "Images", table, [text for _, text in rows]


def test_of_five_captions_an_image_has_one(tmp_path):
    """All five are kept captions here; those that no image has are counted, and named by their row."""
    images, table, texts = flickr(tmp_path, 3)
    asked = {"teacher": "files", "files": {"path": str(images), "captions": str(table)}}
    made = run_recipe(tmp_path, texts, recipe_of(**asked))
    assert made.images["caption"].to_pylist() == texts[::5]
    counts = {"rows": 3, "quarantined": 12, "caption_filtered_out": 0, "surplus": 0, "captions_unused": 12}
    assert made.manifest.counts == counts
    assert made.manifest.metrics == {"quarantine": {"duplicate key": 12}}
    assert made.quarantine["caption"].to_pylist() == [text for n, text in enumerate(texts) if n % 5]
    assert made.quarantine["source"].to_pylist()[:2] == ["captions.txt, row 2", "captions.txt, row 3"]


@pytest.mark.parametrize("several", [False, True])
def test_a_table_of_captions_elsewhere_enters_the_keys(tmp_path, several):
    """Of the stages that read it; the location alone is not enough, and a missing one is the caller's mistake."""
    images, table, _ = flickr(tmp_path, 2)
    section = f"{{path: {images}, captions: {table}}}"
    one = f"teacher: files, files: {section}"
    captioned, synthesis_ = f"{{source: file, file: {section}}}", f"{{{one}}}"
    if several:
        captioned, synthesis_ = f"{{sources: [{{name: a, {captioned[1:]}]}}", f"{{teachers: [{{name: b, {one}}}]}}"
    own = [f"captions={captioned}", f"synthesis={synthesis_}", "pairs.scorer=clip", "evaluation.benchmark=prompts"]
    recipe, store = load_recipe("smoke", own), open_store(str(tmp_path / "store"))

    def keys() -> tuple[str, str]:
        said = captions.artifact(recipe, store, ())
        alone = captions_stage([]).artifact(recipe, store, ())
        return said.key, synthesis.artifact(recipe, store, (alone,)).key

    before, content = keys(), table.read_text()
    table.write_text(content.replace("view 0", "sight 0"))
    changed = keys()
    assert [a == b for a, b in zip(before, changed, strict=True)] == [False, False]
    table.write_text(content)
    assert keys() == before
    table.unlink()
    with pytest.raises(ContentNotFound, match=r"there is no .*captions\.txt, which the recipe names"):
        keys()


def test_evaluation_prompts_stay_out_of_the_images_of_a_set(tmp_path):
    """The captions stage filters the set."""
    (prompt := tmp_path / "prompts.txt").write_text("a wholly held out thing\n")
    own = [
        f"captions={{source: file, file: {{path: {tmp_path}/set, format: folder}}, count: 50}}",
        f"evaluation={{benchmark: prompts, prompts: {prompt}}}",
        "pairs.kind=teacher",
        "pairs.scorer=none",
    ]
    recipe = load_recipe("smoke", own)
    root = write_folder(tmp_path / "set", 6)
    (root / "002.txt").write_text("  A wholly held out thing ")
    (root / "004.txt").write_text("")
    asked = {"teacher": "files", "files": {"path": str(root), "format": "folder"}}
    recipe = recipe.model_copy(update={"synthesis": Synthesis(**asked)})
    store = open_store(str(tmp_path / "store"))
    said = captions.artifact(recipe, store, ())
    captions.run(recipe, SETTINGS, (), said)
    artifact = synthesis.artifact(recipe, store, (said,))
    synthesis.run(recipe, SETTINGS, (said,), artifact)
    assert read_table(artifact, "^images")["source"].to_pylist() == ["000", "001", "003", "005"]
    counts = artifact.manifest().counts
    assert (counts["caption_filtered_out"], counts["quarantined"]) == (1, 1)


def test_later_stages_go_on_without_the_missing_images(tmp_path):
    world = World()
    said = [held.text for topic in scene_captions(world, np.random.default_rng(0)).values() for held in topic[:2]]
    root = tmp_path / "set"
    root.mkdir()
    for n, drawn in enumerate(SceneTeacher(world).generate(said, range(len(said)))):
        (root / f"{n:03}.png").write_bytes(b"" if n in (0, 4, 5, 6, 7) else encode_png(drawn))  # 4 to 7: a whole shard
        (root / f"{n:03}.txt").write_text(said[n])
    made = run_synthesis(tmp_path, said, path=root, format="folder", shard_size=4)
    assert made.images["id"].to_pylist() == [1, 2, 3, 8, 9, 10, 11]
    recipe = load_recipe("smoke")
    inputs = {"synthesis": made.artifact}
    for stage, needs in (
        (embeddings, ("synthesis",)),
        (dedup, ("synthesis", "embeddings")),
        (tokens, ("synthesis",)),
    ):
        given = tuple(inputs[name] for name in needs)
        inputs[stage.name] = stage.artifact(recipe, made.artifact.store, given)
        stage.run(recipe, SETTINGS, given, inputs[stage.name])
    for name in ("embeddings", "tokens"):
        assert read_table(inputs[name], f"^{name}")["id"].to_pylist() == [1, 2, 3, 8, 9, 10, 11]
    assert inputs["embeddings"].names("^emb") == ["embeddings-00000.parquet", "embeddings-00001.parquet"]
    kept = read_table(inputs["dedup"], "^keep").filter(pc.field("kept"))["id"].to_pylist()
    assert kept
    assert set(kept) <= {1, 2, 3, 8, 9, 10, 11}
