"""Aspect-ratio buckets from a folder of photographs in many shapes to a student's samples."""

import io
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from flows.commands.sample import sample_to_files
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.data.batches import TokenSource
from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.images.codec import crop_and_resize, decode_image
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import layout_metadata, read_file, read_table
from tasks.token_shapes import TokenShape, default_layout
from tests.factories.made_stages import UNTIL_TOKENS, make_stages
from tests.support.contents import contents
from tests.support.paths import PROGRAMS

pytestmark = [pytest.mark.slow(rank=10), pytest.mark.usefixtures("stages_on_one_thread")]

SIZES = (
    (90, 60), (120, 80), (97, 66), (60, 90), (80, 121), (64, 64), (100, 97), (250, 50), (130, 26), (40, 160),
    (200, 130), (66, 100), (75, 50), (50, 76), (70, 70), (48, 72),
)  # fmt: skip
"""Widths and heights, px: landscape, portrait, nearly square, 5:1 and 1:4."""
TURNED = {1: 6, 11: 8}
"""EXIF orientations of images that are stored on their side."""
RATIOS = ("1:1", "3:2", "2:3", "4:1")
SHAPES = {48: ((48, 48), (32, 64), (64, 32), (32, 96)), 96: ((96, 96), (80, 112), (112, 80), (48, 192))}
EXPECTED = {"1:1": 3, "3:2": 5, "2:3": 6, "4:1": 2}
"""Images of each ratio. 1:4 is not among the ratios, and goes to 2:3."""


def photograph(number: int, width: int, height: int) -> Image.Image:
    """Return a gradient with shapes of its own, so that no two images are copies, and red and green ends."""
    rng = np.random.default_rng(number)
    ramp = np.linspace(0, 1, width)[None, :, None] * rng.integers(60, 200, 3) + rng.integers(0, 55, 3)
    image = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        box = [(x, y), (x + rng.integers(5, 30), y + rng.integers(5, 30))]
        color = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=color)
    return image


def write_set(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        image = photograph(number, *SIZES[number % len(SIZES)])
        exif, name = Image.Exif(), folder / f"{number:03d}"
        if turn := TURNED.get(number):
            exif[0x0112] = turn
            back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[turn]
            image = image.transpose(back)
        data = io.BytesIO()
        image.save(data, "JPEG" if number % 2 else "PNG", quality=95, exif=exif)
        name.with_suffix(".jpg" if number % 2 else ".png").write_bytes(data.getvalue())
        name.with_suffix(".txt").write_text(
            f"photograph {number} of a {'street' if number % 3 else 'house on the left'}"
        )


def overrides(folder: Path, *more: str) -> list[str]:
    return [
        "captions.source=file",
        "captions.near_duplicate=1",
        "captions.count=100",
        f"captions.file={{path: {folder}, format: folder}}",
        "synthesis.teacher=files",
        f"synthesis.files={{path: {folder}, format: folder}}",
        "synthesis.shard_size=7",
        "dedup.copies.planted=0",
        "tokens.sizes=[48, 96]",
        f"tokens.buckets=[{', '.join(RATIOS)}]",
        "tokens.flip=true",
        "tokens.batch_size=4",
        "pretrain.model.dropout=0",
        "pretrain.steps=8",
        "pretrain.batch_size=4",
        "pretrain.log_every=1",
        "pretrain.checkpoint_every=4",
        "pretrain.phases=[{size: 96, steps: 6, batch_size: 2}]",
        "pairs={scorer: none, kind: teacher, count: 6, shard_size: 4}",
        "evaluation.benchmark=prompts",
        "sampler={iterations: 2, head_steps: 2, head_sampler: ddim}",
        *more,
    ]


def make(store: Store, settings: list[str], *names: str) -> dict[str, Artifact]:
    """Make some stages of the smoke recipe with these overrides; return all artifacts by stage."""
    return make_stages(store, load_recipe("smoke", settings), *names)


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory) -> tuple[Path, list[str], dict[str, Artifact]]:
    """A folder with a store, in which a set of images has been made up to the pairs, and the recipe's fields."""
    root = tmp_path_factory.mktemp("buckets")
    write_set(root / "set", range(len(SIZES)))
    settings = overrides(root / "set")
    return root, settings, make(open_store(str(root / "store")), settings, *UNTIL_TOKENS, "pretrain", "pairs")


def rows_of(tokens: Artifact, size: int, shape: tuple[int, int]) -> pa.Table:
    return read_table(tokens, rf"^tokens-{size}px-{shape[1]}x{shape[0]}-\d+\.")


def test_every_image_is_in_one_bucket_at_every_size(bucketed):
    _, _, artifacts = bucketed
    tokens = artifacts["tokens"]
    expected = {
        f"tokens-{size}px-{w}x{h}-0000{n}.parquet" for size in SHAPES for h, w in SHAPES[size] for n in range(3)
    }
    assert set(tokens.names("^tokens")) == expected
    keys = {
        size: [rows_of(tokens, size, shape).select(["id", "flipped"]).to_pylist() for shape in SHAPES[size]]
        for size in SHAPES
    }
    assert keys[48] == keys[96]
    assert {
        ratio: sum(not row["flipped"] for row in rows) for ratio, rows in zip(RATIOS, keys[48], strict=True)
    } == EXPECTED
    ids = Counter(row["id"] for rows in keys[48] for row in rows if not row["flipped"])
    assert set(ids.values()) == {1} and len(ids) == len(SIZES)


def test_the_manifest_counts_the_rows_of_each_bucket(bucketed):
    _, _, artifacts = bucketed
    counts = artifacts["tokens"].manifest().counts
    rows = {
        ratio: len(rows_of(artifacts["tokens"], 48, shape)) for ratio, shape in zip(RATIOS, SHAPES[48], strict=True)
    }
    assert {ratio: counts[f"rows_{ratio}"] for ratio in RATIOS} == rows
    assert counts["rows"] == 2 * sum(rows.values()) and sum(rows.values()) > len(SIZES)


def test_latents_are_of_the_upright_image_cropped_to_its_bucket(bucketed):
    """Also where EXIF turns it, and where it is mirrored."""
    root, _, artifacts = bucketed
    codec, checked = LatentCodec.load("zoo:autoencoder-general"), Counter()
    sources = read_table(artifacts["synthesis"], "^images", ["id", "source"]).to_pylist()
    numbers = {row["id"]: int(Path(row["source"]).stem[-3:]) for row in sources}
    for size, shapes in SHAPES.items():
        for height, width in shapes:
            for row in rows_of(artifacts["tokens"], size, (height, width)).to_pylist():
                number = numbers[row["id"]]
                upright = photograph(number, *SIZES[number])
                if number % 2:  # as JPEG: of the bytes, turned by hand
                    stored = Image.open(root / "set" / f"{number:03d}.jpg").convert("RGB")
                    turn = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}.get(TURNED.get(number))
                    upright = stored.transpose(turn) if turn is not None else stored
                assert upright.size == SIZES[number]
                image = crop_and_resize(np.asarray(upright), height, width)
                image = image[:, ::-1] if row["flipped"] else image
                latents = np.frombuffer(row["latents"], np.float16).reshape(16, height // 8, width // 8)
                assert np.abs(latents - codec.encode(image[None].copy())[0]).max() < 0.01
                checked[number in TURNED, row["flipped"]] += 1
    assert min(checked[turned, flipped] for turned in (True, False) for flipped in (True, False)) > 0


def test_files_say_their_shape(bucketed):
    _, _, artifacts = bucketed
    for size, shapes in SHAPES.items():
        for height, width in shapes:
            table = read_file(artifacts["tokens"], f"tokens-{size}px-{width}x{height}-00000.parquet")
            layout = layout_metadata(table.schema)
            assert (layout["height"], layout["width"]) == (height // 8, width // 8)
            assert {len(value) for value in table["latents"].to_pylist()} <= {2 * 16 * height * width // 64}


def test_a_set_that_grows_encodes_its_new_images_alone(bucketed, tmp_path):
    root, _, artifacts = bucketed
    shutil.copytree(root / "store", tmp_path / "store")
    shutil.copytree(root / "set", tmp_path / "set")
    write_set(tmp_path / "set", range(len(SIZES), 2 * len(SIZES)))
    settings = overrides(tmp_path / "set")
    grown = make(open_store(str(tmp_path / "store")), settings, *UNTIL_TOKENS)["tokens"]
    fresh = make(open_store(str(tmp_path / "empty")), settings, *UNTIL_TOKENS)["tokens"]
    assert contents(grown) == contents(fresh)
    of_images = [file for file in grown.manifest().files if file.name.startswith("tokens")]
    assert sum(file.reused for file in of_images) == artifacts["tokens"].manifest().counts["rows"]
    assert (
        sum(file.rows for file in of_images)
        == grown.manifest().counts["rows"]
        > 1.8 * sum(file.reused for file in of_images)
    )


def test_the_students_table_spans_the_longest_side(bucketed):
    """The first phase's longest is 96 px, six tokens; the square is its default shape."""
    _, _, artifacts = bucketed
    with artifacts["pretrain"].open("student/config.json") as file:
        config = json.load(file)
    assert config["mar"]["position_grid"] == 6
    assert (config["info"]["latent_height"], config["info"]["latent_width"]) == (12, 12)
    with artifacts["pretrain"].open("log.json") as file:
        losses = [row["loss"] for row in json.load(file)]
    assert len(losses) == 14 and np.isfinite(losses).all()


def test_without_squares_the_most_frequent_shape_is_the_default(bucketed, tmp_path):
    root, settings, _ = bucketed
    store = open_store(str(shutil.copytree(root / "store", tmp_path / "store")))
    changed = [*settings, "tokens.buckets=[1:100, 3:1, 2:3]", "pretrain.steps=4", "pretrain.phases=[]"]
    pretrain = make(store, changed, "tokens", "pretrain")["pretrain"]
    with pretrain.open("student/config.json") as file:
        info = json.load(file)["info"]
    assert (info["latent_height"], info["latent_width"]) == (8, 4)


def test_a_square_that_nothing_was_trained_on_is_no_default():
    square, wide, tall = ({"height": height, "width": width} for height, width in ((6, 6), (4, 8), (8, 4)))

    def shape_of(*kept: int) -> dict:
        shapes = zip("abc", (square, wide, tall), kept, strict=True)
        return default_layout([TokenShape(*shape) for shape in shapes])

    assert (shape_of(1, 5, 3), shape_of(0, 5, 3), shape_of(0, 3, 5)) == (square, wide, tall)


def test_batches_hold_kept_rows_with_the_text_of_their_captions(bucketed):
    _, _, artifacts = bucketed
    tokens = artifacts["tokens"]
    files, texts = ([tokens.local(name, Path()) for name in tokens.names(of)] for of in ("^tokens-96px", "^text"))
    captions = {row["id"]: row for row in read_table(tokens, "^text").to_pylist()}
    rows = {
        row["id"]: row["caption_id"] for row in read_table(tokens, "^tokens-96px", ["id", "caption_id"]).to_pylist()
    }
    keep = np.sort(np.array(list(rows)))[::2]
    source, seen = TokenSource(files, texts=texts, patch=2, batch_size=3, seed=0, keep=keep), Counter()
    for step in range(60):
        batch = source.batch(step)
        seen.update(batch.ids.tolist())
        for place, row in enumerate(batch.ids.tolist()):
            text = captions[rows[row]]
            assert batch.text_mask[place].sum() == text["text_length"]
            found = batch.text[place, : text["text_length"]]
            assert found.numpy().tobytes() == text["text"]
    assert set(seen) == set(keep.tolist())


def test_killed_pretraining_in_buckets_ends_with_the_same_bytes(bucketed, tmp_path):
    root, settings, artifacts = bucketed
    store = Path(shutil.copytree(root / "store", tmp_path / "store"))
    shutil.rmtree(store / artifacts["pretrain"].path)
    command = [sys.executable, str(PROGRAMS / "make_stage.py"), str(store), "pretrain"]
    assert subprocess.run([*command, "6", *settings]).returncode == -signal.SIGKILL
    again = subprocess.run([*command, "0", *settings], capture_output=True, text=True, check=True)
    assert "going on from step 4" in again.stderr
    assert contents(Artifact(open_store(str(store)), "pretrain", artifacts["pretrain"].key)) == contents(
        artifacts["pretrain"]
    )


def test_two_processes_train_what_one_does(bucketed, tmp_path, monkeypatch):
    root, settings, artifacts = bucketed
    store = open_store(str(shutil.copytree(root / "store", tmp_path / "store")))
    shutil.rmtree(tmp_path / "store" / artifacts["pretrain"].path)
    monkeypatch.setenv("LIGHTGEN_TRAIN__PROCESSES", "2")
    two = make(store, settings, "pretrain")["pretrain"]
    logs = []
    for artifact in (two, artifacts["pretrain"]):
        with artifact.open("log.json") as file:
            logs.append([row["loss"] for row in json.load(file)])
    assert len(logs[0]) == 14 and logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_winners_are_the_teachers_images_in_the_students_shape(bucketed):
    _, _, artifacts = bucketed
    pairs = read_table(artifacts["pairs"], "^pairs").to_pylist()
    layout = layout_metadata(read_table(artifacts["pairs"], "^pairs").schema)
    assert (layout["height"], layout["width"]) == (12, 12) and len(pairs) == 6
    codec, shapes = LatentCodec.load("zoo:autoencoder-general"), set()
    for row in pairs:
        image = decode_image(row["winner_image"]["bytes"])
        shapes.add(image.shape[0] == image.shape[1])
        expected = codec.encode(crop_and_resize(image, 96, 96)[None])[0]
        assert np.abs(np.frombuffer(row["winner"], np.float16).reshape(16, 12, 12) - expected).max() < 0.01
        assert len(row["loser"]) == len(row["winner"])
    assert False in shapes, "every winner was square before"


def test_preferences_are_learnt_on_those_pairs(bucketed, tmp_path):
    root, settings, _ = bucketed
    store = open_store(str(shutil.copytree(root / "store", tmp_path / "store")))
    tuned = [*settings, "dpo.steps=2", "dpo.batch_size=2", "dpo.log_every=1", "dpo.checkpoint_every=1"]
    assert make(store, tuned, "dpo")["dpo"].manifest().counts["steps"] == 2


def test_a_student_samples_the_shapes_it_was_trained_on(bucketed, tmp_path):
    _, _, artifacts = bucketed
    student = Path(artifacts["pretrain"].store.local_path(f"{artifacts['pretrain'].path}/student"))
    sizes = {}
    for height, width in ((None, None), (48, 192), (112, 80)):
        folder = tmp_path / f"{height}"
        folder.mkdir()
        (file,) = sample_to_files(student, ("a street",), folder, 0, 1, 2, None, height, width)
        sizes[height, width] = Image.open(file).size
    assert sizes == {(None, None): (96, 96), (48, 192): (192, 48), (112, 80): (80, 112)}


def test_keys_of_recipes_without_buckets_stay():
    recipe, squares = load_recipe("smoke"), load_recipe("smoke", ["tokens.sizes=[48]", "tokens.buckets=[]"])
    assert "buckets" not in recipe.tokens.model_dump(mode="json") and "buckets" not in squares.model_dump()["tokens"]
    bucketed = load_recipe("smoke", ["tokens.sizes=[48]", "tokens.buckets=[1:1]"])
    assert bucketed.tokens.model_dump(mode="json")["buckets"] == ["1:1"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["tokens.buckets=['1:1']"], "buckets 1:1 need sizes"),
        (["tokens.sizes=[48]", "tokens.buckets=['4:3', '8:6']"], "buckets: 4:3 and 8:6 are one aspect ratio"),
        (["tokens.sizes=[48]", "tokens.buckets=[wide]"], "buckets: found 'wide'; expected an aspect ratio"),
        (
            ["tokens.sizes=[48]", "tokens.buckets=['1:1']", "pretrain.model.released_positions=true"],
            "right for squares alone",
        ),
    ],
)
def test_buckets_that_contradict_the_recipe_are_refused(more, message):
    with pytest.raises(UserError, match=message):
        load_recipe("smoke", more)


def test_images_that_are_squares_before_are_refused(tmp_path):
    write_set(tmp_path / "set", range(1))
    with pytest.raises(UserError, match=r"synthesis.files.size=64 crops every image to a square before tokens.buckets"):
        load_recipe("smoke", overrides(tmp_path / "set", "synthesis.files.size=64"))


def test_two_buckets_of_one_shape_are_told_by_the_plan(tmp_path):
    recipe = load_recipe("smoke", ["tokens.sizes=[48, 96]", "tokens.buckets=[1:1, 5:4]"])
    with pytest.raises(UserError, match=r"tokens\.buckets: at 48 px 1:1 and 5:4 are both 48 x 48 px"):
        plan(recipe, open_store(str(tmp_path)))
