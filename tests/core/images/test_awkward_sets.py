"""Neighbours of public bug reports on image sets: each gives the right sample, or its row alone is lost, by name."""

import base64
import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightgen_core.images.image_set import open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason, Rejected
from tests.factories.hostile_images import encoded_image
from tests.factories.image_forms import images, write_form

PICTURE = encoded_image(random.Random(0), "PNG")
BASE64 = base64.b64encode(PICTURE).decode()


def read(location, **options) -> tuple[dict[str, str], dict[str, Reason]]:
    """Captions of the samples whose image is the one of this file, and reasons of all others, by key."""
    opened = open_image_set(location, **options)
    good: dict[str, str] = {}
    bad: dict[str, Reason] = {}
    for sample in opened.samples():
        if isinstance(sample, BadSample):
            bad[sample.key] = sample.error.reason
            continue
        (data,) = opened.read([sample.byte_range])
        if isinstance(data, Rejected):
            bad[sample.key] = data.reason
        else:
            assert data == PICTURE
            good[sample.key] = sample.caption
    return good, bad


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE)


REFERENCES = {
    "as it is": "images/a b.PNG",
    "with backslashes": "images\\a b.PNG",
    "from here": "./images/a b.PNG",
    "with a percent code": "images/a%20b.PNG",
    "of Windows": "C:\\sets\\mine\\images\\a b.PNG",
    "of another machine": "/home/someone/mine/images/a b.PNG",
    "as an address": "file:///mine/images/a b.PNG",
}


@pytest.mark.parametrize("text", REFERENCES.values(), ids=REFERENCES)
@pytest.mark.parametrize("form", ["metadata.jsonl", "rows.jsonl", "metadata.csv", "rows.csv", "rows.parquet"])
def test_a_path_means_the_file_however_it_is_written(tmp_path, form, text):
    put(tmp_path, "images/a b.PNG")
    row = {"file_name": text, "text": "a cat"}
    if form.endswith("jsonl"):
        (tmp_path / form).write_text(json.dumps(row))
    elif form.endswith("csv"):
        (tmp_path / form).write_text("file_name,text\r\n" + ",".join(row.values()) + "\r\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / form)
    good, bad = read(tmp_path)
    assert (list(good.values()), bad) == (["a cat"], {})


def test_of_several_rows_of_an_image_the_first_usable_counts(tmp_path):
    """In metadata of a folder, also of two files; the others are named."""
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,\na.png,a cat\na.png,a dog\n")
    lines = [
        {"file_name": "a.png", "text": "a fox"},
        {"file_name": "c.png", "text": "c"},
        {"file_name": "b", "text": "b"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[1]])))
    others = {"metadata.csv, row 3": Reason.DUPLICATE_KEY, "metadata.jsonl, line 1": Reason.DUPLICATE_KEY}
    missing = {"c": Reason.NO_IMAGE, "metadata.jsonl, line 4": Reason.DUPLICATE_KEY}
    assert read(tmp_path) == (
        {"a": "a cat", "b": "b"},
        {"metadata.csv, row 1": Reason.CAPTION_EMPTY} | others | missing,
    )


@pytest.mark.parametrize("form", ["a.csv", "a.jsonl", "a.parquet"])
def test_of_a_table_as_the_set_each_row_is_a_sample(tmp_path, form):
    """Of one image with several captions too: `dedup` drops the copies."""
    put(tmp_path, "a.png")
    rows = [{"file_name": "a.png", "text": text} for text in ("a cat", "a dog")]
    if form == "a.csv":
        (tmp_path / form).write_text("file_name,text\na.png,a cat\na.png,a dog\n")
    elif form == "a.jsonl":
        (tmp_path / form).write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / form)
    good, bad = read(tmp_path)
    assert (list(good.values()), bad) == (["a cat", "a dog"], {})


@pytest.mark.parametrize("text", ["A", "a.jpg", "a.JPG", "A.png", "a"])
def test_metadata_name_an_image_without_its_suffix_or_case(tmp_path, text):
    """Trainers whose identifiers have no suffix, and sets made on file systems that know no case."""
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": text, "text": "a cat"}))
    assert read(tmp_path) == ({"a": "a cat"}, {})


LOST = {
    "an address": ("https://example.org/a.png", Reason.NO_IMAGE),
    "another folder": ("../a.png", Reason.UNSAFE_PATH),
    "a file of the system": ("/etc/passwd", Reason.NO_IMAGE),
    "a file that is gone": ("b.png", Reason.NO_IMAGE),
    "nothing": ("", Reason.NO_IMAGE),
    "null": (None, Reason.NO_IMAGE),
    "a number": (7, Reason.NO_IMAGE),
    "bytes as to_csv of datasets writes them": ("{'bytes': b'PNG" + "/x00" * 2000 + "'}", Reason.NO_IMAGE),
    "broken base64": ("data:image/png;base64,abc", Reason.IMAGE_CORRUPT),
}


@pytest.mark.parametrize(("value", "reason"), LOST.values(), ids=LOST)
def test_a_row_whose_image_is_none_costs_that_row(tmp_path, value, reason):
    put(tmp_path, "a.png")
    rows = [{"image": name, "caption": "a cat"} for name in ("a.png", value, BASE64)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad = read(tmp_path)
    assert (good, bad) == ({"a.jsonl:1": "a cat", "a.jsonl:3": "a cat"}, {"a.jsonl:2": reason})


ROWS = {
    "not JSON": (b'{"image": "a.png", "caption": "cut', Reason.CAPTION_JSON),
    "a list": (b'["a.png", "a cat"]', Reason.CAPTION_FIELD),
    "not UTF-8": (b'{"image": "a.png", "caption": "\xff"}', Reason.CAPTION_ENCODING),
    "a null": (b'{"image": "a.png", "caption": null}', Reason.CAPTION_FIELD),
    "not a number": (b'{"image": "a.png", "caption": NaN}', Reason.CAPTION_FIELD),
    "a number": (b'{"image": "a.png", "caption": 7}', Reason.CAPTION_FIELD),
    "no caption": (b'{"image": "a.png", "words": "a cat"}', Reason.CAPTION_FIELD),
    "no image": (b'{"caption": "a cat", "scan": "a.png"}', Reason.NO_IMAGE),
}


@pytest.mark.parametrize(("line", "reason"), ROWS.values(), ids=ROWS)
def test_a_damaged_line_costs_that_line(tmp_path, line, reason):
    put(tmp_path, "a.png")
    right = b'{"image": "a.png", "caption": "a cat"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join((right, line, b"", right)))
    assert read(tmp_path) == ({"a.jsonl:1": "a cat", "a.jsonl:4": "a cat"}, {"a.jsonl:2": reason})


def test_a_line_holds_bytes_in_the_ways_of_the_hub(tmp_path):
    """As the data-set viewer and chat sets write them."""
    values = [{"bytes": BASE64}, {"bytes": None, "path": "a.png"}, f"data:image/png;base64,{BASE64}", ["a.png"]]
    put(tmp_path, "a.png")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"image": v, "caption": "a cat"}) for v in values))
    assert read(tmp_path) == ({f"a.jsonl:{n}": "a cat" for n in range(1, 5)}, {})


def test_a_row_reaches_no_file_out_of_the_set_through_links(tmp_path):
    """Links inside, and paths that go up and stay inside, are followed."""
    put(tmp_path, "set/images/a.png", "elsewhere/b.png")
    root = tmp_path / "set"
    (root / "out").symlink_to("../elsewhere")
    (root / "in").symlink_to("images")
    (root / "rows").mkdir()
    names = ["../images/a.png", "../in/a.png", "../out/b.png", "../../elsewhere/b.png"]
    text = "\n".join(json.dumps({"image": name, "caption": "a cat"}) for name in names)
    (root / "rows" / "a.jsonl").write_text(text)
    good, bad = read(root)
    assert good == {"rows/a.jsonl:1": "a cat", "rows/a.jsonl:2": "a cat"}
    assert bad == {"rows/a.jsonl:3": Reason.SPECIAL_FILE, "rows/a.jsonl:4": Reason.UNSAFE_PATH} | {
        "out/b.png": Reason.NO_CAPTION
    }


def test_an_image_that_no_row_names_is_named(tmp_path):
    put(tmp_path, "a.png", "more/b.png")
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "caption": "a cat"}')
    assert read(tmp_path) == ({"a.jsonl:1": "a cat"}, {"more/b.png": Reason.NO_CAPTION})


def test_a_cut_gzip_keeps_the_lines_before_the_cut(tmp_path):
    lines = b"".join(
        json.dumps(
            {"image": base64.b64encode(encoded_image(random.Random(n), "PNG")).decode(), "caption": f"{n}"}
        ).encode()
        + b"\n"
        for n in range(40)
    )
    packed = gzip.compress(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    *good, last = open_image_set(tmp_path).samples()
    assert [sample.caption for sample in good] == [str(n) for n in range(len(good))] and len(good) > 10
    assert (last.key, last.error.reason) == (f"a.jsonl.gz: after row {len(good)}", Reason.ARCHIVE_CORRUPT)


def test_a_caption_with_an_unquoted_comma_is_not_cut(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat, asleep"\nb.png,a dog, awake\n')
    good, bad = read(tmp_path)
    assert (good, bad) == ({"a": "a cat, asleep"}, {"metadata.csv, row 2": Reason.BAD_ROW, "b": Reason.NO_CAPTION})


def test_what_systems_leave_in_folders_is_named_as_theirs(tmp_path):
    """macOS, Jupyter, Windows, and the hub's own cache of a download."""
    put(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png")
    put(tmp_path, ".cache/huggingface/download/a.png", "Thumbs.db")
    for name in ("a.txt", "._a.txt"):
        (tmp_path / name).write_text("a cat")
    names = ("._a.png", "._a.txt", ".ipynb_checkpoints/", "__MACOSX/", ".cache/")
    assert read(tmp_path) == ({"a": "a cat"}, dict.fromkeys(names, Reason.HIDDEN) | {"Thumbs": Reason.UNKNOWN_FILE})


def test_a_tar_of_macos_and_dots_in_names(tmp_path):
    """webdataset itself cuts a key at its first dot."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in {
            "v1.0/a 2.0 (big).png": PICTURE,
            "v1.0/a 2.0 (big).txt": b"a cat",
            "v1.0/._a 2.0 (big).png": b"AppleDouble",
            "v1.0/b.png": PICTURE,
            "v1.0/b.json": b'{"__key__": "b", "text": ["a dog", "two dogs"]}',
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    good, bad = read(tmp_path)
    assert good == {"0.tar/v1.0/a 2.0 (big)": "a cat", "0.tar/v1.0/b": "a dog"}
    assert bad == {"0.tar/v1.0/._a 2.0 (big).png": Reason.HIDDEN}


@pytest.mark.parametrize("value", [["a cat", "a dog"], [None, "", "a cat"], "a cat"])
def test_of_several_captions_of_a_row_the_first_usable_counts(tmp_path, value):
    column = "captions" if isinstance(value, list) else "Caption"
    row = {"image": BASE64, column: value}
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.jsonl").write_text(json.dumps(row))
    pq.write_table(pa.Table.from_pylist([row | {"image": PICTURE}]), tmp_path / "a.parquet")
    assert read(tmp_path / "json") == ({"a.jsonl:1": "a cat"}, {})
    assert read(tmp_path / "a.parquet") == ({"a.parquet:0": "a cat"}, {})


def test_a_table_of_paths_takes_every_kind_of_value(tmp_path):
    put(tmp_path, "images/a.png")
    values = ["images/a.png", BASE64, "images/b.png", None, "https://example.org/a.png"]
    pq.write_table(pa.table({"image": values, "text": ["a cat"] * 5}), tmp_path / "a.parquet", row_group_size=2)
    lost = {f"a.parquet:{row}": Reason.NO_IMAGE for row in (2, 3, 4)}
    assert read(tmp_path) == ({"a.parquet:0": "a cat", "a.parquet:1": "a cat"}, lost)


def test_a_cut_arrow_file_keeps_the_rows_before_the_cut(tmp_path):
    batches = pa.table({"image": [PICTURE] * 40, "text": ["a cat"] * 40}).to_batches(max_chunksize=10)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) * 6 // 10])
    good, bad = read(tmp_path)
    assert (len(good), bad) == (20, {"a.arrow: row 20 and the rest": Reason.ARCHIVE_CORRUPT})


@pytest.mark.parametrize("row", [2, 0])
def test_rows_of_a_table_are_read_in_any_order(tmp_path, row):
    opened = open_image_set(write_form("save_to_disk", tmp_path / "set"))
    ranges = [sample.byte_range for sample in opened.samples() if isinstance(sample, Sample)]
    assert list(opened.read([ranges[row], ranges[1], ranges[row]])) == [images()[n] for n in (row, 1, row)]


def test_folders_by_class_need_captions_of_their_own(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "cat" / "0.txt").write_text("a cat")
    assert read(tmp_path) == ({"cat/0": "a cat"}, {"dog/0": Reason.NO_CAPTION})


GREY = np.full((4, 6), 200, np.uint8)
RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 20, 20], np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


KINDS = {
    "GIF": (encoded(Image.fromarray(RED), "GIF"), RED[0, 0], 0),
    "animated GIF": (
        encoded(Image.fromarray(RED), "GIF", save_all=True, append_images=[Image.fromarray(GREY)]),
        RED[0, 0],
        0,
    ),
    "BMP": (encoded(Image.fromarray(RED), "BMP"), RED[0, 0], 0),
    "TIFF": (encoded(Image.fromarray(RED), "TIFF", compression="tiff_lzw"), RED[0, 0], 0),
    "AVIF": (encoded(Image.fromarray(RED), "AVIF"), RED[0, 0], 12),
    "WebP": (encoded(Image.fromarray(RED), "WEBP", lossless=True), RED[0, 0], 0),
    "CMYK JPEG": (encoded(Image.fromarray(RED).convert("CMYK"), "JPEG", quality=95), RED[0, 0], 12),
    "16-bit PNG": (encoded(Image.fromarray(GREY.astype(np.uint16) << 8 | 255), "PNG"), (200, 200, 200), 0),
    "palette": (encoded(Image.fromarray(RED).quantize(4), "PNG"), RED[0, 0], 0),
    "transparent palette": (encoded(Image.fromarray(RED).quantize(4), "PNG", transparency=0), (255, 255, 255), 0),
    "grey with alpha": (encoded(Image.fromarray(GREY).convert("LA"), "PNG"), (200, 200, 200), 0),
    "two levels": (encoded(Image.fromarray(GREY).convert("1"), "PNG"), (255, 255, 255), 255),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_usual_kind_has_its_colours(kind):
    data, colour, tolerance = KINDS[kind]
    decoded = SafeImageDecoder(100).decode(data)
    assert decoded.shape == (4, 6, 3)
    assert np.abs(decoded.astype(int) - np.array(colour)).max() <= tolerance
