"""Captions from files: every form, and damage that is named and never stops the reading."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Image

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import BadRow, CaptionFileError, read_captions


def read(path, **source):
    """Captions with their topics, and damage as (location, reason)."""
    found = list(read_captions(CaptionFile(path=str(path), **source)))
    good = [(caption.text, caption.topic) for caption in found if not isinstance(caption, BadRow)]
    return good, [(damage.location, damage.reason) for damage in found if isinstance(damage, BadRow)]


def test_a_text_file_holds_a_caption_a_line(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("\ufeffa cat\r\n  two\tred   boats \n\n\x00\x07\nein Stra\u00dfe\u2028licht".encode())
    good, bad = read(path, format="txt")
    assert good == [("a cat", "captions"), ("two red boats", "captions"), ("ein Stra\u00dfe licht", "captions")]
    assert bad == [("c.txt, line 3", "empty"), ("c.txt, line 4", "empty")]


@pytest.mark.parametrize("first", ["image, a cat", "a caption", "caption", "file_name,label"])
def test_a_text_is_a_table_only_with_both_columns(tmp_path, first):
    path = tmp_path / "c.txt"
    path.write_text(f"{first}\na.png,a dog\n")
    assert [text for text, _ in read(path)[0]] == [first, "a.png,a dog"]
    path.write_text("image,caption\na.png,a dog\n")
    assert [text for text, _ in read(path)[0]] == ["a dog"]
    assert [text for text, _ in read(path, format="txt")[0]] == ["image,caption", "a.png,a dog"]


HOSTILE = {
    b"not json": "not JSON",
    b"": "not JSON",
    b'{"caption": "cut': "not JSON",
    b"[" * 100_000: "not JSON",
    b'{"caption": "\xff\xfe"}': "not UTF-8",
    b'{"caption": "\\ud800 alone"}': "not UTF-8",
    b'["a caption"]': "field missing or no text",
    b'{"words": "a caption"}': "field missing or no text",
    b'{"caption": null}': "field missing or no text",
    b'{"caption": {"deep": 1}}': "field missing or no text",
    b'{"caption": "   \\n"}': "empty",
    b'{"caption": "' + b"long " * 1000 + b'"}': "too long",
    b'{"caption": "' + b"x" * 3_000_000 + b'"}': "too long",
}


def test_damaged_lines_get_a_true_reason_and_the_rest_is_read(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(line for bad in HOSTILE for line in (bad, b'{"caption": "a cat"}')) + b"\n")
    good, bad = read(path, format="jsonl")
    assert good == [("a cat", "captions")] * len(HOSTILE)
    assert bad == [(f"c.jsonl, line {2 * at + 1}", reason) for at, reason in enumerate(HOSTILE.values())]


def test_what_is_kept_of_damage_is_short_and_can_be_written(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(HOSTILE))
    found = [row for row in read_captions(CaptionFile(path=str(path), format="jsonl")) if isinstance(row, BadRow)]
    assert max(len(row.caption) for row in found) <= 4 * 200
    pa.array([row.caption for row in found], pa.string()).validate(full=True)


def test_fields_are_chosen_by_name(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a cat", "kind": "animals"}\n{"text": "a boat", "kind": 7}\n{"text": "a hat"}\n')
    good, _ = read(path, format="jsonl", column="text", topic_column="kind")
    assert good == [("a cat", "animals"), ("a boat", "7"), ("a hat", "captions")]


def test_a_folder_is_read_file_by_file(tmp_path):
    for name in ("b.txt", "a.txt", ".hidden.txt", "other.json"):
        (tmp_path / name).write_text(f"a caption of {name}\n")
    assert read(tmp_path, format="txt")[0] == [("a caption of a.txt", "captions"), ("a caption of b.txt", "captions")]


def test_parquet_gives_a_column_and_damage_in_it_costs_one_row(tmp_path):
    texts = pa.array([b"a cat", b"\xff", None, b"a boat"], pa.binary()).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 4, texts.buffers())
    pq.write_table(pa.table({"caption": broken, "topic": ["x", "y", "z", None]}), tmp_path / "c.parquet")
    good, bad = read(tmp_path / "c.parquet", format="parquet", topic_column="topic")
    assert good == [("a cat", "x"), ("a boat", "captions")]
    assert bad == [("c.parquet, row 1", "not UTF-8"), ("c.parquet, row 2", "field missing or no text")]


def test_a_cut_parquet_file_is_damage_and_the_others_are_read(tmp_path):
    pq.write_table(pa.table({"caption": ["a cat"]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(whole)
    good, bad = read(tmp_path, format="parquet")
    assert (good, bad) == ([("a cat", "captions")] * 2, [("b.parquet", "damaged file")])


@pytest.mark.parametrize("form", ["saved", "saved with splits", "parquet", "jsonl"])
def test_datasets_are_read_from_a_folder_without_decoding_images(tmp_path, form):
    rows = {"caption": ["a cat", "a boat"], "topic": ["x", "y"]}
    folder = tmp_path / "set"
    folder.mkdir()
    if form.startswith("saved"):
        # Bytes that are no image: decoding them would fail.
        table = Dataset.from_dict(rows | {"image": [{"bytes": b"none", "path": None}] * 2}).cast_column(
            "image", Image()
        )
        (DatasetDict(train=table) if "splits" in form else table).save_to_disk(str(folder))
    elif form == "parquet":
        pq.write_table(pa.table(rows), folder / "data.parquet")
    else:
        lines = (json.dumps(dict(zip(rows, values, strict=True))) for values in zip(*rows.values(), strict=True))
        (folder / "data.jsonl").write_text("\n".join(lines))
    good, bad = read(folder, format="dataset", topic_column="topic")
    assert (good, bad) == ([("a cat", "x"), ("a boat", "y")], [])


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_missing_column_is_an_error_that_names_the_columns(tmp_path, form):
    folder = tmp_path / "set"
    if form == "saved":
        Dataset.from_dict({"words": ["a cat"], "n": [1]}).save_to_disk(str(folder))
    else:
        folder.mkdir()
        pq.write_table(pa.table({"words": ["a cat"], "n": [1]}), folder / "a.parquet")
    with pytest.raises(CaptionFileError, match="has no column caption; its columns are words, n"):
        read(folder, format="dataset" if form == "saved" else "parquet")


def test_a_folder_without_dataset_and_a_missing_split_are_errors(tmp_path):
    (tmp_path / "notes.md").write_text("# nothing")
    with pytest.raises(CaptionFileError, match=r"holds no image set: found 1 x \.md"):
        read(tmp_path, format="dataset")
    DatasetDict(train=Dataset.from_dict({"caption": ["a cat"]})).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(CaptionFileError, match="has no split 'test'; its splits are train"):
        read(tmp_path / "set", format="dataset", split="test")


@pytest.mark.parametrize("format", ["txt", "jsonl", "parquet"])
def test_a_path_without_files_is_an_error(tmp_path, format):
    with pytest.raises(CaptionFileError, match=r"there is no .*nowhere; check the path"):
        read(tmp_path / "nowhere", format=format)
    with pytest.raises(CaptionFileError, match=rf"there is no file \*.{format} in it"):
        read(tmp_path, format=format)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be with mark"])
@pytest.mark.parametrize("format", ["txt", "jsonl"])
def test_files_with_a_byte_order_mark_are_read(tmp_path, codec, format):
    text = "ein süßer Hund\nจะไป\U0001f436\n"
    if format == "jsonl":
        text = "".join(json.dumps({"caption": line}, ensure_ascii=False) + "\r\n" for line in text.splitlines())
    data = text.encode(codec) if "with" not in codec else b"\xfe\xff" + text.encode("utf-16-be")
    (tmp_path / f"c.{format}").write_bytes(data)
    good, bad = read(tmp_path, format=format)
    assert (good, bad) == ([("ein süßer Hund", "captions"), ("จะไป\U0001f436", "captions")], [])


def test_a_text_in_another_encoding_costs_its_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("a cat\nein süßer Hund\n".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("a dog".encode("utf-16-le"))
    (tmp_path / "c.txt").write_bytes("a fox\na hen".encode("utf-16")[:-1])
    good, bad = read(tmp_path, format="txt")
    assert [text for text, _ in good] == ["a cat", "a fox", "a he\ufffd"]
    assert bad == [("a.txt, line 2", "not UTF-8"), ("b.txt, line 1", "not UTF-8")]


def test_a_long_line_of_utf_16_costs_itself(tmp_path):
    (tmp_path / "c.txt").write_bytes(f"a cat\n{'x' * 3_000_000}\na dog".encode("utf-16"))
    good, bad = read(tmp_path, format="txt")
    assert ([text for text, _ in good], bad) == (["a cat", "a dog"], [("c.txt, line 2", "too long")])


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        ('"animals"', "animals"),
        ("7", "7"),
        ("7.5", "7.5"),
        ("NaN", "captions"),
        ("null", "captions"),
        ('" "', "captions"),
        ('["a"]', "captions"),
        ('"\\ud800"', "captions"),
        (f'"{"x" * 3000}"', "captions"),
    ],
)
def test_a_topic_that_is_none_costs_no_caption(tmp_path, value, topic):
    (tmp_path / "c.jsonl").write_text(f'{{"caption": "a cat", "kind": {value}}}\n')
    assert read(tmp_path, format="jsonl", topic_column="kind") == ([("a cat", topic)], [])


@pytest.mark.parametrize(
    "type",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.binary()),
    ],
    ids=str,
)
def test_a_parquet_column_may_be_any_type_of_text(tmp_path, type):
    plain = type.value_type if pa.types.is_dictionary(type) else type
    texts = [b"a cat", None, b"a dog"] if "binary" in str(plain) else ["a cat", None, "a dog"]
    column = pa.array(texts).cast(plain)
    column = column.dictionary_encode().cast(type) if pa.types.is_dictionary(type) else column
    pq.write_table(pa.table({"caption": column, "topic": column}), tmp_path / "c.parquet")
    good, bad = read(tmp_path, format="parquet", topic_column="topic")
    assert good == [("a cat", "a cat"), ("a dog", "a dog")]
    assert bad == [("c.parquet, row 1", "field missing or no text")]


@pytest.mark.parametrize("format", ["txt", "jsonl"])
def test_files_are_found_in_any_case_and_in_linked_folders(tmp_path, format):
    line = '{{"caption": "{}"}}' if format == "jsonl" else "{}"
    for name in (f"set/a.{format.upper()}", f"elsewhere/b.{format}", f"elsewhere/.c.{format}"):
        (path := tmp_path / name).parent.mkdir(exist_ok=True)
        path.write_text(line.format(path.stem))
    (tmp_path / "set" / "linked").symlink_to("../elsewhere")
    (tmp_path / "set" / "up").symlink_to("..")
    assert read(tmp_path / "set", format=format)[0] == [("a", "captions"), ("b", "captions")]
