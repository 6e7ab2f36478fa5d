"""Columns of Parquet sets: every type of text and bytes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.rejected import Reason


def test_a_parquet_set_without_the_columns_names_those_it_has(tmp_path):
    pq.write_table(pa.table({"scan": [b"x"], "caption": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ImageSetError, match=r"has columns scan \(binary\), caption \(string\); expected images in image, file_name, "
    ):
        list(open_image_set(tmp_path, "parquet").samples())
    assert [each.caption for each in open_image_set(tmp_path, "parquet", image_column="scan").samples()] == ["a"]


TEXT_TYPES = {
    "string": pa.string(),
    "large": pa.large_string(),
    "view": pa.string_view(),
    "categories": pa.dictionary(pa.int8(), pa.string()),
    "large categories": pa.dictionary(pa.int32(), pa.large_string()),
    "bytes": pa.binary(),
    "large bytes": pa.large_binary(),
    "viewed bytes": pa.binary_view(),
}


@pytest.mark.parametrize("text", TEXT_TYPES.values(), ids=TEXT_TYPES)
@pytest.mark.parametrize("image", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(9)], ids=str)
def test_a_parquet_set_takes_any_type_of_text_and_bytes(tmp_path, text, image):
    captions = pa.array(["a cat", None, "a dog"]).cast(text)
    table = pa.table({"image": pa.array([b"picture 1", None, b"picture 3"], image), "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet")
    opened = open_image_set(tmp_path, "parquet")
    cat, null, dog = opened.samples()
    assert (cat.caption, null.error.reason, dog.caption) == ("a cat", Reason.NO_CAPTION, "a dog")
    assert list(opened.read([cat.byte_range, dog.byte_range])) == [b"picture 1", b"picture 3"]


def test_the_first_usable_caption_column_counts(tmp_path):
    """A column that holds no text is none; a null or an empty text gives way to the next column."""
    columns = {
        "image": [b"x"] * 4,
        "prompt": [1, 2, 3, 4],
        "caption": ["a", None, " ", None],
        "text": ["b", "c", "d", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = list(open_image_set(tmp_path, "parquet").samples())
    assert [sample.caption for sample in found] == ["a", "c", "d", None]
    assert found[3].error.reason is Reason.NO_CAPTION


def test_a_column_of_another_type_is_named_with_it(tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "caption": [[1, 2]]}), tmp_path / "a.parquet")
    with pytest.raises(ImageSetError, match=r"caption \(list<.*>\); expected captions, as text, in one of prompt"):
        list(open_image_set(tmp_path, "parquet").samples())
