"""Files of image sets: suffixes, encodings, links and captions beside their images or in metadata."""

import random
import tarfile
from pathlib import Path

import pytest

from lightgen_core.images.image_set import open_image_set
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason
from tests.factories.hostile_images import PIXELS, encoded_image
from tests.factories.hostile_set import Hostile
from tests.factories.hostile_tars import END
from tests.support.run_stage import run_synthesis


def samples(path: Path, format: str) -> list[Sample]:
    return [found for found in open_image_set(path, format).samples() if isinstance(found, Sample)]


def write_pair(folder: Path, image: str, caption: str = "a cat", format: str = "PNG") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(encoded_image(random.Random(0), format))
    (folder / image).with_suffix(".txt").write_text(caption)


@pytest.mark.parametrize("suffix", ["JPG", "JPEG", "jpe", "Jpe", "jfif", "JFIF", "PNG", "WebP", "gif", "TIFF"])
@pytest.mark.parametrize("format", ["folder", "webdataset"])
def test_the_bytes_decide_whatever_the_suffix_of_an_image(tmp_path, format, suffix):
    write_pair(tmp_path / "set", f"a.{suffix}")
    if format == "webdataset":
        with tarfile.open(tmp_path / "set" / "0.tar", "w") as tar:
            tar.add(tmp_path / "set" / f"a.{suffix}", f"a.{suffix}")
            tar.add(tmp_path / "set" / "a.txt", "a.TXT")
    assert [sample.caption for sample in samples(tmp_path / "set", format)] == ["a cat"]


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "jxl", "jp2"])
def test_an_image_of_another_kind_is_quarantined_as_one(tmp_path, suffix):
    write_pair(tmp_path / "set", f"a.{suffix}")
    (tmp_path / "set" / f"a.{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    write_pair(tmp_path / "set", "b.png")
    made = run_synthesis(tmp_path, ["a cat"], path=tmp_path / "set", format="folder", max_pixels=PIXELS)
    assert (made.images["source"].to_pylist(), made.quarantine["source"].to_pylist()) == (["b"], ["a"])
    assert made.quarantine["reason"].to_pylist() == [Reason.NOT_AN_IMAGE]


@pytest.mark.parametrize("others", [("avif",), ("gif", "tiff"), ("bmp", "cls")])
def test_an_image_of_a_usual_suffix_is_preferred(tmp_path, others):
    """The images beside it are named; a file of another kind is its sample's own."""
    for suffix in others:
        write_pair(tmp_path, f"a.{suffix}", format="GIF")
    write_pair(tmp_path, "a.jpg")
    found, *rest = open_image_set(tmp_path, "folder").samples()
    assert isinstance(found, Sample) and found.byte_range.file == "a.jpg"
    assert {each.key: each.error.reason for each in rest} == {
        f"a.{suffix}": Reason.DUPLICATE_KEY for suffix in others if suffix != "cls"
    }


def test_a_caption_without_image_names_the_files_beside_it(tmp_path):
    write_pair(tmp_path, "a.psd")
    (found,) = open_image_set(tmp_path, "folder").samples()
    assert isinstance(found, BadSample) and found.error.reason is Reason.NO_IMAGE
    assert found.error.detail == "a caption without an image of its key, beside ['a.psd']"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_a_caption_is_read_in_utf_8_and_in_marked_utf_16(tmp_path, codec, suffix):
    text = '{"caption": "ein süßer Hund"}' if suffix == "json" else "ein süßer Hund\r\n"
    write_pair(tmp_path, "a.png")
    (tmp_path / "a.txt").unlink()
    (tmp_path / f"a.{suffix}").write_bytes(text.encode(codec))
    (found,) = open_image_set(tmp_path, "folder").samples()
    if codec in ("utf-8", "utf-8-sig", "utf-16"):
        assert found.caption == "ein süßer Hund"
    else:
        assert isinstance(found, BadSample) and found.error.reason is Reason.CAPTION_ENCODING


@pytest.mark.parametrize(
    "value", ["null", "7", "NaN", "[]", "[7, null]", '{"en": "a"}', '" "', "true", '"\\ud800"', f'"{"x" * 10_001}"']
)
def test_the_first_usable_caption_field_counts(tmp_path, value):
    write_pair(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(f'{{"prompt": {value}, "caption": null, "text": "a dog"}}')
    assert [sample.caption for sample in samples(tmp_path, "folder")] == ["a dog"]
    (tmp_path / "a.json").write_text(f'{{"prompt": {value}}}')  # the text file is the next one
    assert [sample.caption for sample in samples(tmp_path, "folder")] == ["a cat"]


@pytest.mark.parametrize("snapshot", ["snapshot", "snapshots/abc", "snapshots/abc/train"])
def test_links_into_the_blobs_of_a_cache_are_followed(tmp_path, snapshot):
    write_pair(tmp_path / "blobs", "i.png")
    (folder := tmp_path / snapshot).mkdir(parents=True)
    (folder / "a.png").symlink_to(tmp_path / "blobs" / "i.png")
    (folder / "a.txt").symlink_to(tmp_path / "blobs" / "i.txt")
    opened = open_image_set(folder, "folder")
    (found,) = opened.samples()
    assert found.caption == "a cat"
    assert list(opened.read([found.byte_range])) == [(tmp_path / "blobs" / "i.png").read_bytes()]


def test_links_inside_are_followed_and_others_are_named(tmp_path):
    write_pair(tmp_path / "set" / "a", "0.png")
    write_pair(tmp_path / "elsewhere", "1.png", "a secret")
    root = tmp_path / "set"
    (root / "b.png").symlink_to("a/0.png")
    (root / "b.txt").write_text("a dog")
    for name, target in {
        "cycle.png": "cycle.png",
        "gone.png": "nowhere.png",
        "folder": "a",
        "up": "..",
        "out.txt": "../elsewhere/1.txt",
        "out": "../elsewhere",
    }.items():
        (root / name).symlink_to(target)
    found = list(open_image_set(root, "folder").samples())
    assert {each.key: each.caption for each in found if isinstance(each, Sample)} == {"a/0": "a cat", "b": "a dog"}
    bad = {each.key: each.error for each in found if isinstance(each, BadSample)}
    assert bad.keys() == {"cycle.png", "gone.png", "folder", "up", "out.txt", "out"}
    assert {error.reason for error in bad.values()} == {Reason.SPECIAL_FILE}
    assert "copy the set with cp -rL" in bad["out.txt"].detail


def test_a_link_changed_since_it_was_listed_is_not_followed(tmp_path):
    write_pair(tmp_path / "set", "a.png")
    opened = open_image_set(tmp_path / "set", "folder")
    (found,) = opened.samples()
    (tmp_path / "set" / "a.png").unlink()
    (tmp_path / "set" / "a.png").symlink_to("/etc/passwd")
    (refused,) = opened.read([found.byte_range])
    assert refused.reason is Reason.SPECIAL_FILE


def test_archives_are_found_in_any_case_and_in_linked_folders(tmp_path):
    root, outside = tmp_path / "set", tmp_path / "elsewhere"
    for folder, name in ((root, "0.tar"), (root / "a", "1.TAR"), (outside, "2.Tar"), (outside / "deep", "3.tar")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(Hostile(random.Random(0)).right(name, "x") + END)
    for name, target in {"out": outside, "again": outside, "in": root / "a", "up": tmp_path, "self": root}.items():
        (root / name).symlink_to(target)
    (outside / "back").symlink_to(root)
    found = [sample.key for sample in samples(root, "webdataset")]
    assert found == ["0.tar/x", "a/1.TAR/x", "again/2.Tar/x", "again/deep/3.tar/x"]


def test_an_imagefolder_has_its_captions_in_metadata(tmp_path):
    for name in ("0.png", "sub/1.jpg", "2.png", "3.png"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded_image(random.Random(0), "PNG"))
    (tmp_path / "2.txt").write_text("its own")
    lines = [
        '{"file_name": "0.png", "text": "a cat"}',
        '{"file_name": "sub/1.jpg", "prompt": null, "text": "a dog"}',
        '{"file_name": "2.png", "text": "of the set"}',
        '{"file_name": "3.png", "text": 3}',
        '{"file_name": "4.png", "text": "gone"}',
        '{"file_name": "../../etc/passwd", "text": "x"}',
        '{"text": "x"}',
        "[1]",
        "",
    ]
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + "\n".join(lines) + "\n")
    found = list(open_image_set(tmp_path, "folder").samples())
    good = {each.key: each.caption for each in found if isinstance(each, Sample)}
    assert good == {"0": "a cat", "2": "its own", "sub/1": "a dog"}
    bad = {each.key: each.error.reason for each in found if isinstance(each, BadSample)}
    reasons = (Reason.UNSAFE_PATH, Reason.NO_IMAGE, Reason.CAPTION_FIELD)
    assert bad == {"3": Reason.CAPTION_FIELD, "4": Reason.NO_IMAGE} | {
        f"metadata.jsonl, line {number}": reason for number, reason in enumerate(reasons, 6)
    }
