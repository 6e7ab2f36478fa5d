"""Captions in a table that lies elsewhere than the images that it names, in every form, here and on S3."""

import csv
import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import CaptionFileError, read_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason
from lightgen_core.teachers.config import ImageSetConfig
from tests.factories.image_forms import images
from tests.support.s3_server import s3_files, s3_server

CAPTIONS = {"$pac.png": "a coin, in purple", "two words.PNG": "ein süßer Hund", "more/0xbtc.png": "a coin of orange"}
FIVE = [(name, f"{text} ({turn})") for name, text in CAPTIONS.items() for turn in range(5)]


def write_images(root: Path, names=CAPTIONS) -> Path:
    for name, data in zip(names, images() * len(names), strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_csv(path: Path, rows, header=("image", "caption"), delimiter=",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def coco(rows) -> dict:
    """As COCO's captions_val2017.json: an image has an id, and each caption is an annotation."""
    ids = {name: 10 * number for number, name in enumerate(dict(rows))}
    listed = [{"id": number, "file_name": name, "height": 48, "license": 3} for name, number in ids.items()]
    texts = [{"id": number, "image_id": ids[name], "caption": text} for number, (name, text) in enumerate(rows)]
    return {"info": {"year": 2017}, "licenses": [{"id": 3}], "images": listed, "annotations": texts}


def _lines(rows, image="file_name", text="text") -> str:
    return "".join(json.dumps({image: name, text: caption}) + "\n" for name, caption in rows)


ROWS = CAPTIONS.items()
FORMS = {
    "captions.csv": lambda path: write_csv(path, ROWS, ("file_name", "text")),
    "CAPTIONS.CSV": lambda path: write_csv(path, ROWS, ("Image", "Prompt"), ";"),
    "captions.tsv": lambda path: write_csv(path, ROWS, ("image_name", "caption"), "\t"),
    "captions.txt": lambda path: write_csv(path, ROWS),
    "captions.jsonl": lambda path: path.write_text(_lines(ROWS)),
    "captions.jsonl.gz": lambda path: path.write_bytes(gzip.compress(_lines(ROWS, "image", "caption").encode())),
    "list.json": lambda path: path.write_text(json.dumps([{"image": n, "captions": [t, "other"]} for n, t in ROWS])),
    "meta_cap.json": lambda path: path.write_text(json.dumps({f"/home/me/set/{n}": {"caption": t} for n, t in ROWS})),
    "Flickr8k.token.txt": lambda path: path.write_text("".join(f"{n}#{i}\t{t}\n" for i, (n, t) in enumerate(ROWS))),
    "headless.csv": lambda path: path.write_text("".join(f'{n},"{t}"\n' for n, t in ROWS)),
    "labels.json": lambda path: path.write_text(json.dumps({f"set/{n}": t for n, t in ROWS})),
    "several.json": lambda path: path.write_text(json.dumps({n: [t, "other"] for n, t in ROWS})),
    "captions_val2017.json": lambda path: path.write_text(json.dumps(coco(list(ROWS)))),
    "captions.arrow": lambda path: feather.write_feather(
        pa.table({"image": list(CAPTIONS), "caption": list(CAPTIONS.values())}), path, "uncompressed"
    ),
    "captions.parquet": lambda path: pq.write_table(
        pa.table({"path": [f"set/{name}" for name in CAPTIONS], "text": list(CAPTIONS.values())}), path
    ),
}


def read(root, table, **options) -> tuple[dict[str, str], dict[str, Reason]]:
    """Captions of the images by file, in the set's order, and reasons of all else by key."""
    found = list(open_image_set(str(root), captions=str(table), **options).samples())
    good = {sample.byte_range.file: sample.caption for sample in found if isinstance(sample, Sample)}
    return good, {sample.key: sample.error.reason for sample in found if isinstance(sample, BadSample)}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_elsewhere_captions_the_images(tmp_path, form):
    root, table = write_images(tmp_path / "set"), tmp_path / "annotations" / form
    table.parent.mkdir()
    FORMS[form](table)
    assert read(root, table) == (CAPTIONS, {})
    opened = open_image_set(root, captions=table)
    data = list(opened.read([sample.byte_range for sample in opened.samples()]))
    assert (opened.form, data) == ("folder", images())


@pytest.mark.parametrize("form", FORMS)
def test_the_captions_of_images_and_of_stage_captions_agree(tmp_path, form):
    """It reads the images with the table, or the table alone."""
    root = write_images(tmp_path / "set")
    FORMS[form](tmp_path / form)
    for source in (CaptionFile(path=str(root), captions=str(tmp_path / form)), CaptionFile(path=str(tmp_path / form))):
        found = [row.text for row in read_captions(source) if isinstance(row, Caption)]
        assert found == list(CAPTIONS.values())


def test_of_five_rows_of_an_image_the_first_usable_counts(tmp_path):
    """As in Flickr8k; each of the others is named, with its caption."""
    root = write_images(tmp_path / "set")
    rows = [(name, " " if number == 5 else text) for number, (name, text) in enumerate(FIVE)]
    table = write_csv(tmp_path / "captions.txt", rows)
    good, bad = read(root, table)
    assert list(good.values()) == ["a coin, in purple (0)", "ein süßer Hund (1)", "a coin of orange (0)"]
    assert bad.pop("captions.txt, row 6") is Reason.CAPTION_EMPTY
    first = {1, 7, 11}
    assert bad == {f"captions.txt, row {n}": Reason.DUPLICATE_KEY for n in range(1, 16) if n not in first | {6}}
    found = open_image_set(root, captions=table).samples()
    assert [each.caption for each in found if each.key == "captions.txt, row 3"] == ["a coin, in purple (2)"]


def test_a_quote_in_a_list_of_captions_swallows_no_line(tmp_path):
    """As lists with tabs are written: a quote is a character of the caption."""
    texts = ['"stop" says a sign', 'a "coin', '"', "two, three; four | five"]
    names = [*CAPTIONS, "last.png"]
    root = write_images(tmp_path / "set", names)
    table = tmp_path / "token.txt"
    table.write_text("".join(f"{name}#0\t{text}\n" for name, text in zip(names, texts, strict=True)))
    assert read(root, table) == (dict(zip(names, texts, strict=True)), {})


def test_a_document_of_other_texts_is_no_table(tmp_path):
    """Its keys are no images."""
    table = tmp_path / "about.json"
    table.write_text(json.dumps({"name": "my set", "$pac.png": "a coin"}))
    with pytest.raises(ImageSetError, match="names no image"):
        read(write_images(tmp_path / "set"), table)


def test_all_unusable_rows_of_an_image_are_named(tmp_path):
    root = write_images(tmp_path / "set", ["a.png", "b.png"])
    table = write_csv(tmp_path / "a.csv", [("a.png", ""), ("a.png", " "), ("b.png", "a cat")])
    assert read(root, table) == ({"b.png": "a cat"}, {"a": Reason.CAPTION_EMPTY, "a.csv, row 2": Reason.CAPTION_EMPTY})


def test_of_coco_the_first_caption_of_an_image_counts(tmp_path):
    root, document = write_images(tmp_path / "val2017"), coco(FIVE)
    document["annotations"] += [{"image_id": 99, "caption": "an image that is not listed"}, "no object"]
    document["images"].append({"id": 7, "file_name": "no-caption.png"})
    write_images(root, ["no-caption.png"])
    (tmp_path / "captions.json").write_text(json.dumps(document))
    good, bad = read(root, tmp_path / "captions.json")
    assert good == {name: f"{text} (0)" for name, text in CAPTIONS.items()}
    assert bad == {
        "no-caption": Reason.CAPTION_FIELD,
        "captions.json, line 5": Reason.NO_IMAGE,
        "captions.json, line 6": Reason.CAPTION_FIELD,
    }


def test_coco_beside_its_images_is_a_set_of_its_own(tmp_path):
    """The document lies in the folder of the images; five captions are a list, of which the first counts."""
    root = write_images(tmp_path / "set")
    (root / "captions.json").write_text(json.dumps(coco(FIVE)))
    opened = open_image_set(root)
    assert [sample.caption for sample in opened.samples()] == [f"{text} (0)" for text in CAPTIONS.values()]
    assert opened.form == "jsonl"


NAMES = {
    "as it is": "more/a b.PNG",
    "by its name alone": "a b.PNG",
    "with folders in front": "/kaggle/input/set/more/a b.PNG",
    "with one folder in front": "set/more/a b.PNG",
    "of another folder": "elsewhere/a b.PNG",
    "from the table": "../set/more/./a b.PNG",
    "of Windows": "D:\\set\\more\\a b.PNG",
    "as an address": "file:///set/more/a%20b.PNG",
    "with a percent code": "more/a%20b.PNG",
    "without its suffix": "more/a b",
    "in another case": "MORE/A B.png",
    "with another suffix": "a b.jpg",
}


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_a_name_means_the_image_however_it_is_written(tmp_path, text):
    root = write_images(tmp_path / "set", ["more/a b.PNG", "c.png"])
    table = write_csv(tmp_path / "a.csv", [(text, "a cat")])
    assert read(root, table) == ({"more/a b.PNG": "a cat"}, {"c": Reason.NO_CAPTION})


def test_an_accent_means_the_same_in_both_of_its_forms(tmp_path):
    """macOS names a file with the accent as a sign of its own."""
    root = write_images(tmp_path / "set", ["su\u0308\u00df.png"])
    table = write_csv(tmp_path / "a.csv", [("s\u00fc\u00df.png", "a cat")])
    assert list(read(root, table)[0].values()) == ["a cat"]


def test_a_name_of_several_images_needs_its_folder(tmp_path):
    root = write_images(tmp_path / "set", ["x/a.png", "y/a.png", "z/b.png"])
    rows = [("a.png", "which one"), ("set/y/a.png", "a cat"), ("b.png", "a dog"), ("c.png", "nowhere")]
    good, bad = read(root, write_csv(tmp_path / "a.csv", rows))
    assert good == {"y/a.png": "a cat", "z/b.png": "a dog"}
    assert bad == {"x/a": Reason.NO_CAPTION, "a.csv, row 1": Reason.NO_IMAGE, "a.csv, row 4": Reason.NO_IMAGE}


def test_a_path_is_that_of_the_image_that_it_covers(tmp_path):
    """`set/a.png` is `a.png`, although `more/a.png` has this end too."""
    root = write_images(tmp_path / "set", ["a.png", "more/a.png"])
    table = write_csv(tmp_path / "a.csv", [("set/a.png", "a cat"), ("set/more/a.png", "a dog")])
    assert read(root, table) == ({"a.png": "a cat", "more/a.png": "a dog"}, {})


@pytest.mark.parametrize("order", [1, -1])
def test_paths_of_two_images_are_not_taken_for_one(tmp_path, order):
    """A table of all splits, and images of one: what is written out counts, and of two guesses none."""
    root = write_images(tmp_path / "set", ["a.png", "train/b.png", "c.png"])
    rows = [("train/a.png", "wrong"), ("val/a.png", "wrong"), ("test/b.png", "wrong"), ("train/b.png", "a dog")]
    table = write_csv(tmp_path / "a.csv", [*rows[::order], ("d/c.png", "a cat")])
    good, bad = read(root, table)
    assert good == {"c.png": "a cat", "train/b.png": "a dog"}
    assert bad.pop("a") is Reason.NO_CAPTION
    assert list(bad.values()) == [Reason.NO_IMAGE] * 3


def test_a_row_of_another_split_is_none_of_this_one(tmp_path):
    root = write_images(tmp_path / "set", ["train/a.png", "test/a.png"])
    table = write_csv(tmp_path / "a.csv", [("train/a.png", "a dog"), ("test/a.png", "a cat")])
    assert read(root, table, split="test") == ({"test/a.png": "a cat"}, {})


def test_a_table_is_preferred_to_captions_beside_the_images(tmp_path):
    """They count where it has none for an image."""
    root = write_images(tmp_path / "set", ["a.png", "b.png", "c.png"])
    for name in "abc":
        (root / f"{name}.txt").write_text(f"beside {name}")
    write_csv(root / "metadata.csv", [("a.png", "metadata"), ("b.png", "metadata")], ("file_name", "text"))
    table = write_csv(tmp_path / "a.csv", [("a.png", "the table"), ("b.png", " ")])
    assert read(root, table) == ({"a.png": "the table", "b.png": "beside b", "c.png": "beside c"}, {})


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv", "metadata.csv", "a/captions.json"])
def test_a_table_in_the_folder_is_no_file_of_it(tmp_path, name):
    """Nor do its rows make the folder a set of rows."""
    root = write_images(tmp_path / "set")
    (root / name).parent.mkdir(exist_ok=True)
    if name.endswith("json"):
        (root / name).write_text(json.dumps(coco(list(ROWS))))
    else:
        write_csv(root / name, ROWS)
    assert read(root, root / name) == (CAPTIONS, {})


def test_a_damaged_row_or_table_costs_what_is_damaged(tmp_path):
    root = write_images(tmp_path / "set", ["a.png", "b.png"])
    (tmp_path / "a.csv").write_text("file_name,text\na.png,a cat, asleep\nb.png,a dog\nhttps://example.org/a.png,no\n")
    assert read(root, tmp_path / "a.csv") == (
        {"b.png": "a dog"},
        {"a": Reason.NO_CAPTION, "a.csv, row 1": Reason.BAD_ROW, "a.csv, row 3": Reason.NO_IMAGE},
    )
    lines = "".join(json.dumps({"image": "a.png", "caption": f"{n} {'x' * 99}"}) + "\n" for n in range(3000))
    packed = gzip.compress(lines.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    good, bad = read(root, tmp_path / "a.jsonl.gz")
    assert good == {"a.png": f"0 {'x' * 99}"}
    assert bad["a.jsonl.gz: the rest"] is Reason.ARCHIVE_CORRUPT


WRONG = {
    "nothing": (None, r"captions is .*there is no .*a\.csv; check the path on this machine"),
    "a folder": ("", r"captions is .*expected one table that names images, of \.csv, "),
    "other columns": (
        "label,text\nx,a cat\n",
        r"names no image .*row 1: .* a path in file_name; found \['label'",
    ),
    "lines of text": ("a cat, asleep\na dog, awake\n", r"names no image .*row 1: .* found \['a cat', 'asleep'\]"),
    "another set": ("image,text\nz.png,a cat\n", r"names no image of .*set; a\.csv, row 1: no image: there is no 'z"),
    "a header alone": ("image,text\n", r"names no image of .*set: it is empty"),
    "a long line": (f"{'x' * 200_000}\n", r"names no image of .*set; a\.csv: the rest: damaged archive: field larger"),
    "half a character": (b"\xff\xfea", r"names no image of .*set: it is empty"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_table_that_names_no_image_is_an_error(tmp_path, content, message):
    root, table = write_images(tmp_path / "set"), tmp_path / "a.csv"
    if content == "":
        table.mkdir()
    elif content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ImageSetError, match=message):
        read(root, table)
    with pytest.raises(CaptionFileError, match=message):
        list(read_captions(CaptionFile(path=str(root), captions=str(table))))


@pytest.mark.parametrize(("others", "count"), [(99, 1), (100, 0)])
def test_of_a_long_list_of_captions_the_beginning_is_read(tmp_path, others, count):
    """It is no table if none of its first hundred rows has a column that names images."""
    root, table = write_images(tmp_path / "set", ["a.png"]), tmp_path / "a.jsonl"
    table.write_text('{"caption": "a dog"}\n' * others + '{"image": "a.png", "caption": "a cat"}\n')
    if count:
        assert read(root, table)[0] == {"a.png": "a cat"}
    else:
        with pytest.raises(ImageSetError, match=r"names no image of .*; a\.jsonl, line 1: no image"):
            read(root, table)


@pytest.mark.parametrize("format", [None, "csv"])
def test_a_set_of_another_form_takes_no_table(tmp_path, format):
    write_csv(tmp_path / "a.csv", [("x.png", "a cat")])
    (tmp_path / "set").mkdir()
    write_csv(tmp_path / "set" / "b.csv", [("x.png", "a cat")])
    with pytest.raises(ImageSetError, match=r"is read as csv, by format or .* and captions names images of a folder"):
        read(tmp_path / "set", tmp_path / "a.csv", format=format)


@pytest.mark.parametrize("section", [ImageSetConfig, CaptionFile])
def test_a_recipe_with_a_table_for_another_form_is_refused(section):
    with pytest.raises(ValueError, match="captions names images of a folder, and format is webdataset"):
        section(path="x", captions="a.csv", format="webdataset")
    assert section(path="x", captions="a.csv", format="folder").locations == ("x", "a.csv")


def test_sections_without_a_table_are_what_they_were():
    """So that keys of recipes stay."""
    assert "captions" not in ImageSetConfig(path="x").model_dump() | CaptionFile(path="x").model_dump()


def test_images_in_a_zip_archive_have_captions_elsewhere(tmp_path):
    root = write_images(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in CAPTIONS:
            archive.write(root / name, f"set/{name}")
    assert read(tmp_path / "set.zip", write_csv(tmp_path / "a.csv", ROWS)) == (CAPTIONS, {})


def test_a_table_and_images_are_read_from_s3(tmp_path):
    root, table = write_images(tmp_path / "set"), write_csv(tmp_path / "captions.txt", ROWS)
    with s3_server() as uri:
        bucket = uri.removesuffix("/store")
        s3_files().put(f"{root}/", f"{bucket}/set/", recursive=True)
        for name in ("elsewhere/captions.txt", "set/captions.txt"):
            s3_files().put(str(table), f"{bucket}/{name}")
            assert read(f"{bucket}/set", f"{bucket}/{name}")[0] == CAPTIONS
        assert read(f"{bucket}/set", f"{bucket}/set/captions.txt") == (CAPTIONS, {})
        with pytest.raises(ImageSetError, match=r"captions is 's3://.*there is nothing at s3://.*/gone\.csv"):
            read(f"{bucket}/set", f"{bucket}/gone.csv")
