"""`lightgen doctor RECIPE` on the recipe's own data: what later stages refuse, with names and counts, by a sample."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.commands.doctor_data import IMAGES, SAMPLES, check_data
from flows.load import load_recipe
from lightgen_core.images import tables
from tests.factories.hostile_images import encoded_image
from tests.factories.image_forms import write_form


def findings(root, *overrides: str) -> list[tuple[str, str, str]]:
    sections = [f"captions={{source: file, count: 100, file: {{path: {root}}}}}", "pairs.scorer=clip"]
    sections += [f"synthesis={{teacher: files, count: 100, files: {{path: {root}}}}}", "evaluation.benchmark=prompts"]
    return [tuple(finding) for finding in check_data(load_recipe("smoke", [*sections, *overrides]))]


def write(root, captions, size=(48, 48)) -> None:
    root.mkdir(exist_ok=True)
    for number, caption in enumerate(captions):
        (root / f"{number}.png").write_bytes(encoded_image(random.Random(number), "PNG", size))
        if caption is not None:
            (root / f"{number}.txt").write_text(caption)


def test_a_set_in_order_has_its_counts_alone(tmp_path):
    write(tmp_path / "set", ["a red boat", "two sleeping dogs"])
    assert findings(tmp_path / "set", "captions.count=2", "synthesis.count=2") == [
        ("captions", "ok", f"2 captions in {tmp_path}/set"),
        ("images", "ok", f"2 samples in {tmp_path}/set, read as folder"),
    ]


def test_a_validation_of_the_whole_set_is_refused(tmp_path):
    write(tmp_path / "set", ["a red boat", "two sleeping dogs"])
    given = ("captions.count=2", "pretrain.validation.every=10", "pretrain.validation.rows=2")
    refused = "pretrain.validation.rows is 2; the set has 2, and none would be left to train on"
    assert ("images", "missing", refused) in findings(tmp_path / "set", *given)
    assert all(
        state != "missing" for _, state, _ in findings(tmp_path / "set", *given[:2], "pretrain.validation.rows=1")
    )


def test_what_will_be_refused_is_named_and_counted(tmp_path):
    root = tmp_path / "set"
    long = " ".join(f"word{n}" for n in range(70))
    write(root, ["a red boat at sea", "a red boat at sea", "A red boat at sea!", long, None, "x" * 2001, "a dog"])
    (root / "7.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "7.txt").write_text("a tall tree")
    (root / "6.png").write_bytes((root / "6.png").read_bytes()[:500])
    (root / "notes.md").write_text("#")
    found = findings(root, "captions.count=3", "synthesis.files.size=64")
    assert found == [
        ("captions", "ok", f"6 captions in {root}"),
        ("captions", "note", "1 of 9 no caption: 4"),
        ("captions", "note", "1 of 9 too long: 5"),
        ("captions", "note", "1 of 9 neither image nor caption: notes"),
        (
            "captions",
            "note",
            f"1 of 6 have more than 64 words, and are cut at tokens.max_text_tokens: {long[:60] + '...'!r}",
        ),
        ("captions", "note", "1 of 6 repeat an earlier one; their images share its caption"),
        (
            "captions",
            "note",
            "1 of 6 are near duplicates (captions.near_duplicate), and dropped with their images: 'A red boat at sea!'",
        ),
        ("captions", "note", "captions.count is 3: of 4 the others are not taken, nor their images"),
        ("images", "ok", f"7 samples in {root}, read as folder"),
        ("images", "note", "1 of 9 no caption: 4"),
        ("images", "note", "1 of 9 neither image nor caption: notes"),
        ("images", "note", "1 of 7 image cut short: 6"),
        ("images", "note", "1 of 7 not a PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF image: 7"),
        ("images", "note", "synthesis.count is 100; the set has 7"),
        (
            "images",
            "note",
            "5 of 5 are smaller than 64 px, and enlarged: 0 (48 x 48), 1 (48 x 48), 2 (48 x 48) and 2 more",
        ),
    ]


def test_sizes_that_tokens_refuses_make_the_machine_unready(tmp_path):
    root = write_form("txt beside images", tmp_path / "set")
    message = "2 sizes (64 x 40, 48 x 48), which tokens refuses: set synthesis.files.size or tokens.sizes"
    assert ("images", "missing", message) in findings(root)
    assert [state for _, state, _ in findings(root, "tokens.sizes=[32]")].count("missing") == 0
    message = (
        "sides of 50 x 50 px are no multiples of 16, as tokens needs: set synthesis.files.size or tokens.sizes to one"
    )
    assert ("images", "missing", message) in findings(root, "synthesis.files.size=50")


def test_images_are_counted_by_bucket_and_compared_with_it(tmp_path):
    """At 48 px an image of 64 x 40 px covers 2:1, which is 64 x 32 px, and not 1:1."""
    root = write_form("txt beside images", tmp_path / "set")
    covered, short = (
        [text for _, _, text in findings(root, "tokens.sizes=[48]", f"tokens.buckets=[{ratio}, 1:1]")]
        for ratio in ("2:1", "4:1")
    )
    assert "tokens.buckets of 3 images: 1 of 2:1, 2 of 1:1" in covered
    assert not any("enlarged" in text for text in covered)
    assert "tokens.buckets of 3 images: 0 of 4:1, 3 of 1:1" in short
    assert any("1 of 3 are smaller than their bucket at 48 px, and enlarged" in text for text in short)


def test_captions_elsewhere_are_counted_or_missing(tmp_path):
    """Of the two rows of an image one counts; a table that is not there, or names no image, leaves nothing to read."""
    root, table = tmp_path / "set", tmp_path / "captions.csv"
    write(root, [None, None])
    elsewhere = [f"{section}={{path: {root}, captions: {table}}}" for section in ("captions.file", "synthesis.files")]
    table.write_text("image,caption\n0.png,a red boat\n0.png,a boat\nx/1.PNG,two sleeping dogs\n")
    assert findings(root, *elsewhere, "captions.count=2", "synthesis.count=2") == [
        ("captions", "ok", f"2 captions in {root} with {table}"),
        ("captions", "note", "1 of 3 duplicate key: captions.csv, row 2"),
        ("images", "ok", f"2 samples in {root} with {table}, read as folder"),
        ("images", "note", "1 of 3 duplicate key: captions.csv, row 2"),
    ]
    table.write_text("image,caption\nz.png,a red boat\n")
    text = f"{table} names no image of {root}; captions.csv, row 1: no image: there is no 'z.png' in the set"
    assert findings(root, *elsewhere) == [("captions", "missing", text), ("images", "missing", text)]
    table.unlink()
    text = f"captions is {str(table)!r}: there is no {table}; check the path on this machine"
    assert findings(root, *elsewhere) == [("captions", "missing", text), ("images", "missing", text)]


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_a_set_without_images_is_missing(tmp_path, what):
    if what == "empty":
        (tmp_path / what).mkdir()
    assert [(check, state) for check, state, _ in findings(tmp_path / what)] == [
        ("captions", "missing"),
        ("images", "missing"),
    ]


def test_of_a_large_set_a_sample_of_several_files_is_read(tmp_path, monkeypatch):
    """Twenty files of a thousand rows: two thousand rows and a hundred images are read, of eight files."""
    image = encoded_image(random.Random(0), "PNG")
    (tmp_path / "set").mkdir()
    for number in range(20):
        table = pa.table({"image": [image] * 1000, "text": [f"caption {number * 1000 + row}" for row in range(1000)]})
        pq.write_table(table, tmp_path / "set" / f"{number:02}.parquet", row_group_size=100)
    opened: list[str] = []
    monkeypatch.setattr(
        "lightgen_core.images.table_set.open_table",
        lambda files, name: opened.append(name) or tables.open_table(files, name),
    )
    found = {check: text for check, _, text in findings(tmp_path / "set") if "looked at" in text}
    assert found == {
        "captions": f"{SAMPLES:,} captions of a larger set, looked at in {tmp_path}/set",
        "images": f"{SAMPLES:,} samples of a larger set, looked at in {tmp_path}/set, read as parquet",
    }
    assert sorted(set(opened)) == [f"{number:02}.parquet" for number in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert IMAGES == 100


def test_of_several_sources_each_has_its_part_of_the_count(tmp_path):
    """A file that a language model rewrites is to give nothing itself."""
    root = write_form("txt beside images", tmp_path / "set")
    source, teacher = f"{{name: set, source: file, file: {{path: {root}}}}}", f"teacher: files, files: {{path: {root}}}"
    rewriter = f"{{name: llm, weight: 3, source: llm, llm: {{model: m, rewrite: {{}}}}, file: {{path: {root}}}}}"
    lines = [f"captions.sources=[{source}, {rewriter}]", "captions.count=100", "synthesis.count=100"]
    lines += [f"synthesis.teachers=[{{name: set, {teacher}}}, {{name: more, weight: 4, {teacher}}}]"]
    recipe = load_recipe("smoke", [*lines, "pairs.scorer=clip", "evaluation.benchmark=prompts"])
    said = [found.found.partition(";")[0] for found in check_data(recipe) if " part of " in found.found]
    assert said == [
        "set's part of captions.count is 25",
        "set's part of synthesis.count is 20",
        "more's part of synthesis.count is 80",
    ]
