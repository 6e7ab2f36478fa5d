"""Features of a frozen encoder beside the latents, and a student that is aligned with them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from flows.ablation import validate_ablation
from flows.commands.estimate import Rates, estimate
from flows.errors import UserError
from flows.load import load_recipe
from flows.sizes import check_sizes
from lightgen_core.data.batches import TokenSource
from lightgen_core.encoders.feature_maps import FeatureMaps
from lightgen_core.images.codec import crop_and_resize, encode_png
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import layout_metadata, read_table
from tasks.config.settings import Settings
from tasks.stage import Stage, StageContext, stage
from tasks.tokens import tokens
from tests.factories.made_stages import make_until

CLIP = 'tokens.features={"model": "zoo:clip"}'
COLORS = ((250, 10, 10), (10, 250, 10), (10, 10, 250))


def planted(color: tuple[int, int, int]) -> np.ndarray:
    """An image of one colour, its left third black."""
    image = np.zeros((48, 48, 3), np.uint8)
    image[:, 16:] = color
    return image


def made(what: Stage, store, recipe, *inputs: Artifact) -> Artifact:
    artifact = what.artifact(recipe, store, inputs)
    what.run(recipe, Settings(), inputs, artifact)
    return artifact


def encoded(folder, shards, *overrides: str) -> Artifact:
    """The tokens of planted images, in files of these numbers."""
    recipe, store = load_recipe("smoke", [CLIP, *overrides]), open_store(str(folder))

    @stage(version=1 + len(shards), config_sections=())
    def synthesis(ctx: StageContext) -> None:
        for shard, numbers in enumerate(shards):
            images = [{"bytes": encode_png(planted(COLORS[number])), "path": "a.png"} for number in numbers]
            columns = {"id": numbers, "image": images, "caption": ["a circle"] * len(numbers), "caption_id": numbers}
            columns |= {"sha256": [f"{number:064x}" for number in numbers], "topic": ["all"] * len(numbers)}
            ctx.write_table(f"images-{shard:05d}.parquet", pa.table(columns))

    return made(tokens, store, recipe, made(synthesis, store, recipe))


def test_a_rows_features_are_those_of_its_own_pixels(tmp_path):
    """Mirrored rows have the mirror image's, at every size on the grid of its latents."""
    options = ("tokens.flip=true", "tokens.sizes=[48, 96]", "tokens.batch_size=2")
    found, encoder = encoded(tmp_path, ([0, 1], [2]), *options), FeatureMaps.load("zoo:clip")
    for size, side in ((48, 3), (96, 6)):
        table = read_table(found, f"^tokens-{size}px")
        layout = layout_metadata(table.schema)
        assert [layout[f"feature_{name}"] for name in ("height", "width", "channels")] == [side, side, 96]
        assert len(table) == 6 and sum(table["flipped"].to_pylist()) == 3
        stored = [np.frombuffer(row, np.float16).reshape(side, side, 96) for row in table["features"].to_pylist()]
        for row, features in zip(table.to_pylist(), stored, strict=True):
            image = planted(COLORS[row["id"]])
            own = crop_and_resize(image, size, size)
            own = own[:, ::-1] if row["flipped"] else own
            expected = encoder.encode(own[None], (side, side))[0]
            assert np.abs(features - expected).max() < 0.01
            nearest = min(range(len(stored)), key=lambda other: np.abs(stored[other] - expected).sum())
            assert stored[nearest] is features


def test_features_are_read_with_their_row(tmp_path):
    found = encoded(tmp_path, ([0, 1], [2]))
    files, texts = (
        [found.store.local_path(f"{found.path}/{name}") for name in found.names(pattern)]
        for pattern in ("^tokens", "^text")
    )
    batch = TokenSource(files, patch=2, batch_size=3, seed=0, texts=texts, features=True).batch(0)
    stored = {row["id"]: row["features"] for row in read_table(found, "^tokens").to_pylist()}
    for image, features in zip(batch.ids.tolist(), batch.features.numpy(), strict=True):
        assert features.shape == (9, 96) and features.tobytes() == stored[image]


def test_rows_of_other_files_are_taken_over_with_features(tmp_path):
    """Of two images that an artifact with other files holds; the third is encoded."""
    encoded(tmp_path, ([0, 1],))
    grown, alone = encoded(tmp_path, ([0], [1, 2])), encoded(tmp_path / "alone", ([0], [1, 2]))
    reused = {entry.name: entry.reused for entry in grown.manifest().files if entry.name.startswith("tokens")}
    assert reused == {"tokens-00000.parquet": 1, "tokens-00001.parquet": 1}
    hashes = ({entry.name: entry.sha256 for entry in each.manifest().files} for each in (grown, alone))
    assert next(hashes) == next(hashes)


def test_without_the_section_columns_are_as_before(tmp_path):
    recipe = load_recipe("smoke")
    assert "features" not in recipe.tokens.model_dump() and "repa" not in recipe.pretrain.model_dump()
    table = read_table(encoded(tmp_path, ([0, 1, 2],), "tokens.features=null"), "^tokens")
    assert "features" not in table.column_names
    assert not [name for name in layout_metadata(table.schema) if name.startswith("feature_")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.repa={}"], r"tokens stores none: give tokens\.features, with model, or leave repa out"),
        ([CLIP, "pretrain.repa={depth: 9}"], r"repa\.depth is 9; the student has 1 blocks of the decoder and behind"),
        (["tokens.features={model: 'timm:nope'}"], "tokens.features: found timm model 'nope'"),
        (["tokens.features={model: 'timm:test_vit@/no.safetensors'}"], r"there is no /no\.safetensors"),
    ],
)
def test_a_mistake_is_told_before_any_stage(overrides, message):
    with pytest.raises(UserError, match=message):
        check_sizes(load_recipe("smoke", overrides))


def test_features_take_the_disk_of_their_values():
    plain, more = (
        {row["stage"]: row["bytes"] for row in estimate(load_recipe("smoke", overrides), Rates())["stages"]}
        for overrides in ([], [CLIP])
    )
    assert {name: more[name] - plain[name] for name in plain} == dict.fromkeys(plain, 0) | {"tokens": 480 * 2 * 9 * 96}


def test_alignment_adds_the_projectors_flops():
    plain, more = (
        {row["stage"]: row["flops"] for row in estimate(load_recipe("smoke", overrides), Rates())["stages"]}
        for overrides in ([CLIP], [CLIP, "pretrain.repa={projector_width: 2048}"])
    )
    per_token = 6 * (48 * 2048 + 2048**2 + 2048 * 96)
    assert more["pretrain"] - plain["pretrain"] == pytest.approx(40 * 16 * 9 * per_token)
    assert more["dpo"] == plain["dpo"]


def test_points_with_and_without_alignment_share_tokens(tmp_path):
    """A weight of 0 is the recipe without the section."""
    axis = {"axis": "pretrain.repa.weight", "values": [0, 0.5]}
    request = validate_ablation("smoke", [axis], store=str(tmp_path), overrides=[CLIP])
    without, aligned = (run.artifacts for run in request.runs)
    assert without["tokens"].key == aligned["tokens"].key and without["pretrain"].key != aligned["pretrain"].key
    sections = {"axis": "pretrain.repa", "values": [None, {"weight": 0.5}]}
    same = validate_ablation("smoke", [sections], store=str(tmp_path), overrides=[CLIP])
    assert [run.artifacts["pretrain"].key for run in same.runs] == [without["pretrain"].key, aligned["pretrain"].key]
    assert request.plan.artifacts["pretrain"].key == without["pretrain"].key


def test_an_aligned_student_trains_in_phases_and_tunes(tmp_path):
    recipe = load_recipe(
        "smoke",
        [
            CLIP,
            "pretrain.repa={}",
            "tokens.sizes=[32, 48]",
            "pretrain.steps=2",
            "pretrain.phases=[{size: 48, steps: 2, batch_size: 8}]",
            "pretrain.log_every=1",
            "pretrain.checkpoint_every=1",
            "captions.count=30",
            "synthesis.count=40",
            "pairs.count=4",
            "pairs.kind=teacher",
            "dpo.steps=2",
        ],
    )
    places = make_until(open_store(str(tmp_path)), recipe, "dpo")
    student = places["pretrain"]
    with student.open("log.json") as file:
        rows = json.load(file)
    assert [row["phase"] for row in rows] == [1, 1, 2, 2] and all(0 < row["alignment_loss"] < 2 for row in rows)
    names = [name for name in student.names("^student/") if name.endswith(".safetensors")]
    for name in names:
        weights = load_file(student.store.local_path(f"{student.path}/{name}"))
        assert len(names) == 2 and {key.partition(".")[0] for key in weights} == {"mar", "head"}
    assert not [key for key in layout_metadata(read_table(places["pairs"], "^pairs").schema) if "feature" in key]
    assert places["dpo"].manifest().counts["steps"] == 2
