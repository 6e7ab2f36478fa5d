"""`lightgen init`: a recipe for own images, and one that extends another."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli import cli
from flows.commands import init as init_module
from flows.commands.doctor_data import check_data
from flows.commands.init import _held_out, _learning
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from lightgen_core.captioning.readers import read_captions
from lightgen_core.captioning.select import Caption
from storage.open_store import open_store


def folder_of(path: Path, count: int, sizes=((80, 100), (64, 90))) -> Path:
    path.mkdir()
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path / f"{number:02d}.JPG", format="JPEG")
        (path / f"{number:02d}.txt").write_text(f"noise with the number {number}")
    return path


def init(*arguments: object) -> None:
    CliRunner().invoke(cli, ["init", *map(str, arguments)], catch_exceptions=False)


def test_a_recipe_for_own_images_is_ready_at_first_try(tmp_path, monkeypatch):
    """Written from beside the images, used from elsewhere; sizes are mixed, the suffix is in capitals."""
    images, file = folder_of(tmp_path / "images", 24), tmp_path / "mine.yaml"
    monkeypatch.chdir(tmp_path)
    init("--pictures", "images", "-o", "mine.yaml")
    monkeypatch.chdir(images)
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.captions.count, recipe.synthesis.count) == ("mine", 24, 24)
    assert recipe.synthesis.files is not None and recipe.synthesis.files.size == 64
    assert [finding.state for finding in check_data(recipe) if finding.state == "missing"] == []
    assert len(plan(recipe, open_store(str(tmp_path / "store"))).stages) == 10
    prompts = Path(str(recipe.evaluation.prompts)).read_text().splitlines()
    assert prompts == ["noise with the number 0", "noise with the number 8", "noise with the number 16"]
    assert (recipe.pretrain.previews, list(recipe.pretrain.preview_captions)) == (5, prompts)


@pytest.mark.parametrize(
    ("images", "captions", "rows"),
    [
        (24, [f"noise {number}" for number in range(24)], 0),
        (320, [f"noise {number}" for number in range(320)], 16),
        (9000, [f"noise {number % 1000}" for number in range(9000)], 64),
        (320, ["A photo", "a  photo"] * 10 + [f"noise {number}" for number in range(300)], 0),
    ],
)
def test_a_set_that_is_large_enough_gives_up_images(images, captions, rows):
    """A twentieth, for the held-out loss; none where one caption alone would take more away."""
    assert _held_out(images, captions) == rows
    assert _learning(200, 1, rows, [])["pretrain"].get("validation", {}).get("rows", 0) == rows


@pytest.mark.parametrize(
    ("tflops", "steps", "named"),
    [
        (0.04, 200, "0.04 TFLOP/s in a matrix product"),
        (0.29, 200, "0.29 TFLOP/s in a matrix product"),
        (0.31, 400, "0.31 TFLOP/s in a matrix product"),
        (50.0, 3200, "50.00 TFLOP/s in a matrix product"),
        (None, 3200, "an NVIDIA device"),
    ],
)
def test_the_machine_decides_how_long_is_trained(tmp_path, monkeypatch, tflops, steps, named):
    monkeypatch.setattr(init_module, "has_nvidia_device", lambda: tflops is None)
    monkeypatch.setattr(init_module, "measure_cores", lambda: tflops)
    init("--pictures", folder_of(tmp_path / "images", 9), "-o", tmp_path / "mine.yaml")
    assert load_recipe(str(tmp_path / "mine.yaml")).pretrain.steps == steps
    text = (tmp_path / "mine.yaml").read_text()
    assert f"{named}: {steps:,} steps of training are a try" in text


def test_a_list_of_captions_chooses_among_the_images(tmp_path):
    """Images have captions of their own, and find themselves in the list by text; it may be longer than they are."""
    images, captions = folder_of(tmp_path / "images", 4), tmp_path / "captions.txt"
    captions.write_text("a red house, old\nnoise with the number 2\n" + "".join(f"another {n}\n" for n in range(5)))
    init("--pictures", images, "--captions", captions, "-o", tmp_path / "mine.yaml")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe.captions.file is not None and recipe.synthesis.files is not None
    assert (recipe.captions.file.path, recipe.captions.file.captions) == (str(captions), None)
    assert (recipe.synthesis.files.captions, recipe.captions.count, recipe.synthesis.count) == (None, 7, 4)


def test_a_list_of_which_no_image_has_a_caption_is_refused(tmp_path):
    images, captions = folder_of(tmp_path / "images", 4), tmp_path / "captions.txt"
    captions.write_text("a red house\na blue boat\n")
    with pytest.raises(
        UserError, match=r"(?s)no image has one of its captions.*such as 'a red house'.*file_name and te"
    ):
        init("--pictures", images, "--captions", captions, "-o", tmp_path / "mine.yaml")


def tables(images: Path) -> dict[str, str]:
    """Captions of the images in tables as people have them, by file name; of some forms five an image."""
    names = [path.name for path in sorted(images.iterdir())]
    five = [(name, f"view {turn} of the image called {name}") for name in names for turn in range(5)]
    listed = [{"id": 7 * number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{"id": n, "image_id": 7 * (n // 5), "caption": text} for n, (_, text) in enumerate(five)]
    return {
        "captions.csv": "file_name,text\n" + "".join(f"{name},{text}\n" for name, text in five[::5]),
        "captions.jsonl": "".join(json.dumps({"image": name, "prompt": text}) + "\n" for name, text in five[::5]),
        "captions.txt": "image,caption\n" + "".join(f"{name},{text}\n" for name, text in five),
        "captions_val2017.json": json.dumps({"info": {}, "images": listed, "annotations": annotations}),
    }


@pytest.mark.parametrize(("form", "further"), [("csv", 0), ("jsonl", 0), ("txt", 96), ("json", 0)])
def test_a_table_of_captions_elsewhere_is_ready_at_first_try(tmp_path, form, further):
    """Names have spaces, a dollar, capitals. Of five captions in rows all but the first are counted."""
    images = folder_of(tmp_path / "images", 24)
    for number, path in enumerate(sorted(images.iterdir())):
        if path.suffix == ".txt":
            path.unlink()
        else:
            path.rename(path.with_name(f"$a coin {number}.JPG"))
    name, text = next((name, text) for name, text in tables(images).items() if name.endswith(f".{form}"))
    (tmp_path / name).write_text(text)
    init("--pictures", images, "--captions", tmp_path / name, "-o", tmp_path / "mine.yaml")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe.captions.file is not None and recipe.synthesis.files is not None
    locations = (str(images), str(tmp_path / name))
    assert (recipe.captions.file.locations, recipe.synthesis.files.locations) == (locations, locations)
    assert (recipe.captions.count, recipe.synthesis.count) == (24, 24)
    found = [finding for finding in check_data(recipe) if "enlarged" not in finding.found]
    assert [finding.state for finding in found if finding.state == "missing"] == []
    assert [finding.found for finding in found if finding.state == "ok"] == [
        f"24 captions in {images} with {tmp_path / name}",
        f"24 samples in {images} with {tmp_path / name}, read as folder",
    ]
    duplicates = [finding.found.partition(":")[0] for finding in found if "duplicate key" in finding.found]
    assert duplicates == [f"{further} of {24 + further} duplicate key"] * (2 if further else 0)
    assert len(plan(recipe, open_store(str(tmp_path / "store"))).stages) == 10


def test_a_table_replaces_the_captions_of_the_images(tmp_path):
    images = folder_of(tmp_path / "images", 4)
    (tmp_path / "captions.csv").write_text("file_name,text\n00.JPG,a red house\n")
    init("--pictures", images, "--captions", tmp_path / "captions.csv", "-o", tmp_path / "mine.yaml")
    source = load_recipe(str(tmp_path / "mine.yaml")).captions.file
    assert source is not None
    assert [row.text for row in read_captions(source) if isinstance(row, Caption)] == [
        "a red house",
        *(f"noise with the number {number}" for number in (1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"there is no .*captions\.csv; check the path"),
        (
            "file_name,text\nz.png,a cat\n",
            r"captions\.csv names no image of .*images; captions\.csv, row 1: .*'z\.png'",
        ),
        ("a cat\na dog\n", r"captions\.csv names no image of .*images; captions\.csv, row 1: .* found \['a cat'\]"),
        (
            "file_name,label\n00.JPG,7\n",
            r"read as folder with .*captions\.csv, holds no image .* found \['file_name', ",
        ),
    ],
)
def test_neither_captions_nor_a_table_is_told_with_the_remedy(tmp_path, table, message):
    images = folder_of(tmp_path / "images", 2)
    for caption in images.glob("*.txt"):
        caption.unlink()
    if table:
        (tmp_path / "captions.csv").write_text(table)
    remedy = (
        r"(?s)read as folder, holds no image with a caption.*" + message + ".*Put a caption beside .*give --captions"
    )
    with pytest.raises(UserError, match=remedy):
        init("--pictures", images, "--captions", tmp_path / "captions.csv", "-o", tmp_path / "mine.yaml")


def test_a_recipe_from_another_extends_it(tmp_path):
    init("--from", "demo", "-o", tmp_path / "mine.yaml")
    mine, demo = load_recipe(str(tmp_path / "mine.yaml")), load_recipe("demo")
    assert mine == demo.model_copy(update={"name": "mine"})


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match="is there already"):
        init("--from", "demo", "-o", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "seed: 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --pictures LOCATION"),
        (("--pictures", "a", "--from", "demo"), "give --pictures LOCATION"),
        (("--from", "demo", "--captions", "a"), "--captions goes with --pictures"),
        (("--pictures", "nowhere"), "nowhere"),
    ],
)
def test_a_request_that_makes_no_sense_is_explained(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        init(*arguments, "-o", tmp_path / "mine.yaml")


def test_images_without_captions_are_told_with_the_remedy(tmp_path):
    images = folder_of(tmp_path / "images", 2)
    for caption in images.glob("*.txt"):
        caption.unlink()
    with pytest.raises(UserError, match=r"(?s)no image with a caption.*Put a caption beside each image"):
        init("--pictures", images, "-o", tmp_path / "mine.yaml")
