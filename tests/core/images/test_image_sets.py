"""Image sets: what is right is read, what is damaged or hostile is named with its true reason, and nothing crashes."""

import gzip
import io
import os
import random
import resource
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightgen_core.images.codec import decode_image, encode_png
from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason, Rejected
from tests.factories.hostile_images import BYTES, PIXELS, chunk, picture, png
from tests.factories.hostile_set import Hostile, write_folder, write_parquet
from tests.factories.hostile_tars import END, bomb, member
from tests.support.run_stage import run_synthesis

SIX = [f"caption {n}" for n in range(6)]


def samples(path: Path, format: str) -> list[Sample]:
    return [found for found in open_image_set(path, format).samples() if isinstance(found, Sample)]


def write_set(root: Path, format: str, rng: random.Random) -> list[bytes]:
    """Six samples in two files or folders; returns their pictures in the set's order."""
    root.mkdir()
    pictures = [picture(rng, "PNG" if n % 2 else "JPEG") for n in range(6)]
    for half in (0, 1):
        numbers = range(3 * half, 3 * half + 3)
        if format == "parquet":
            rows = [{"image": {"bytes": pictures[n], "path": None}, "text": SIX[n]} for n in numbers]
            pq.write_table(pa.Table.from_pylist(rows), root / f"{half}.parquet", row_group_size=2)
        elif format == "folder":
            (root / f"{half}").mkdir()
            for n in numbers:
                (root / f"{half}" / f"{n}.{'png' if n % 2 else 'jpg'}").write_bytes(pictures[n])
                (root / f"{half}" / f"{n}.txt").write_text(SIX[n])
        else:
            with tarfile.open(root / f"{half}.tar{'.gz' if half else ''}", "w:gz" if half else "w") as tar:
                for n in numbers:
                    for suffix, data in (
                        ("png" if n % 2 else "jpg", pictures[n]),
                        ("json", b'{"prompt": "%s"}' % SIX[n].encode()),
                    ):
                        about = tarfile.TarInfo(f"./{'long/' * 30}{n}.{suffix}")
                        about.size = len(data)
                        tar.addfile(about, io.BytesIO(data))
    return pictures


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_a_right_set_gives_image_bytes_and_captions_in_order(tmp_path, format):
    pictures = write_set(tmp_path / "set", format, random.Random(0))
    opened = open_image_set(tmp_path / "set", format)
    found = list(opened.samples())
    assert [sample.caption for sample in found] == SIX
    assert list(opened.read([sample.byte_range for sample in found])) == pictures
    some = [found[n].byte_range for n in (4, 1, 0, 5)]  # places may come in any order
    assert list(opened.read(some)) == [pictures[n] for n in (4, 1, 0, 5)]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_tar_format_of_python_is_read(tmp_path, kind):
    names = ["short", "å/ünïcode", "dir/" * 22 + "name", *([] if kind == tarfile.USTAR_FORMAT else ["x" * 300])]
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.addfile(folder := tarfile.TarInfo("dir"))
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            for suffix in ("jpg", "txt"):
                about = tarfile.TarInfo(f"{name}.{suffix}")
                about.size, about.mtime = 3, 1.5
                tar.addfile(about, io.BytesIO(b"abc"))
    found = [each.key for each in open_image_set(tmp_path, "webdataset").samples() if isinstance(each, Sample)]
    assert found == [f"a.tar/{name}" for name in names]


def test_files_of_a_sample_need_not_be_neighbours(tmp_path):
    """Text stands in for JSON without a caption."""
    blocks = [member(b"%d.jpg" % n, b"p") for n in range(3)] + [member(b"%d.json" % n, b"{}") for n in range(3)]
    blocks += [member(b"%d.txt" % n, b" thing\n %d " % n) for n in range(3)]
    (tmp_path / "a.tar").write_bytes(b"".join(blocks) + END)
    assert [sample.caption for sample in samples(tmp_path, "webdataset")] == ["thing 0", "thing 1", "thing 2"]


def test_a_thousand_hostile_inputs_get_their_true_reason(tmp_path):
    """Each is quarantined, every good row is kept, and no bomb is unpacked."""
    seen = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for format, write in (("webdataset", write_tars), ("folder", write_folder), ("parquet", write_parquet)):
        hostile = Hostile(random.Random(format))
        root = tmp_path / format
        root.mkdir()
        write(hostile, root, {"webdataset": 700, "folder": 160, "parquet": 100}[format])
        made = run_synthesis(
            tmp_path, ["a photo of thing 0"], path=root, format=format, max_pixels=PIXELS, max_bytes=BYTES
        )
        found = dict(zip(made.quarantine["source"].to_pylist(), made.quarantine["reason"].to_pylist(), strict=True))
        assert found == {source: str(reason) for source, reason in hostile.expected.items()}
        assert set(made.images["source"].to_pylist()) == hostile.good
        assert made.manifest.counts["quarantined"] == len(hostile.expected) == len(made.quarantine)
        assert made.manifest.counts["rows"] == len(hostile.good)
        assert sum(made.manifest.metrics["quarantine"].values()) == len(hostile.expected)
        seen += len(hostile.expected)
    assert seen >= 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KB: no bomb was unpacked


def write_tars(hostile: Hostile, root: Path, inputs: int) -> None:
    for number in range(4):
        (root / f"{number}.tar").write_bytes(hostile.tar(f"{number}.tar", inputs // 4))
    hostile.broken_tars(root, 3)
    zipped = hostile.tar("zipped.tar.gz", 60)
    (root / "zipped.tar.gz").write_bytes(gzip.compress(zipped, 1))


def test_any_tar_with_any_bytes_changed_is_read_to_some_end(tmp_path):
    rng = random.Random(4)
    right = Hostile(rng).tar("a.tar", 80)[:60_000]
    for turn in range(150):
        data = bytearray(right)
        for _ in range(rng.choice((1, 3, 30))):
            place = rng.randrange(len(data) // 512) * 512 + rng.choice((rng.randrange(160), rng.randrange(512)))
            data[place] = rng.randrange(256)
        whole = gzip.compress(bytes(data), 1) if turn % 5 == 0 else bytes(data)
        (tmp_path / "a.tar").write_bytes(whole[: rng.randrange(len(whole))] if turn % 3 == 0 else whole)
        opened = open_image_set(tmp_path, "webdataset")
        found = list(opened.samples())
        assert all(isinstance(each, Sample | BadSample) for each in found)
        for data in opened.read([each.byte_range for each in found if isinstance(each, Sample)]):
            assert isinstance(data, Rejected) or decode(data) in (True, False)


def decode(data: bytes) -> bool:
    try:
        return SafeImageDecoder(PIXELS, 16).decode(data).shape == (16, 16, 3)
    except Rejected:
        return False


def test_a_gzip_bomb_is_left_when_it_has_expanded_a_hundredfold(tmp_path):
    hostile = Hostile(random.Random(0))
    (tmp_path / "a.tar.gz").write_bytes(bomb(hostile.rng, hostile.right("a.tar.gz", "first")))
    first, rest = open_image_set(tmp_path, "webdataset").samples()
    assert (first.key, rest.key, rest.error.reason) == ("a.tar.gz/first", "a.tar.gz: the rest", Reason.ARCHIVE_BOMB)


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_a_set_that_is_not_there_is_explained(tmp_path, format):
    with pytest.raises(ImageSetError, match=r"there is no|is no folder"):
        open_image_set(tmp_path / "nowhere", format)
    if format != "folder":
        os.mkfifo(tmp_path / "pipe.tar")
        with pytest.raises(ImageSetError, match=r"holds no \.(tar|parquet)"):
            open_image_set(tmp_path, format)


def test_a_parquet_set_without_the_columns_names_those_it_has(tmp_path):
    pq.write_table(pa.table({"jpg": [b"x"], "caption": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ImageSetError, match=r"has columns jpg \(binary\), caption \(string\); expected images in 'image'"
    ):
        list(open_image_set(tmp_path, "parquet").samples())
    assert [each.caption for each in open_image_set(tmp_path, "parquet", image_column="jpg").samples()] == ["a"]


def test_an_image_of_the_right_size_keeps_its_bytes():
    """Any other becomes a PNG of that size."""
    rng = random.Random(0)
    right = picture(rng, "JPEG", (32, 32))
    assert SafeImageDecoder(10**6, 32).reencode(right) == right
    for other in (
        picture(rng, "JPEG", (64, 40)),
        picture(rng, "WEBP", (32, 32)),
        picture(rng, "PNG", (32, 32), "RGBA"),
    ):
        made = SafeImageDecoder(10**6, 32).reencode(other)
        assert (made[:4], decode_image(made).shape) == (b"\x89PNG", (32, 32, 3))


def test_the_middle_is_cut_out():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (SafeImageDecoder(300, 10).decode(encode_png(wide)) == 255).all()


def test_a_turned_image_is_set_upright_and_transparency_is_white():
    tall = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    tall.save(sink, "JPEG", exif=exif)
    assert SafeImageDecoder(100).decode(sink.getvalue()).shape == (8, 4, 3)
    sink = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(sink, "PNG")
    assert (SafeImageDecoder(100).decode(sink.getvalue()) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_means_transparent_becomes_white(mode):
    """The pixels of a PNG with a key of transparency are not the file's own, so it is written again."""
    sink = io.BytesIO()
    Image.new(mode, (4, 4), 1).save(sink, "PNG", transparency=(1, 0, 0) if mode == "RGB" else 1)
    made = SafeImageDecoder(100).reencode(sink.getvalue())
    assert (decode_image(made) == 255).all()


METADATA_FAULTS = {
    "a bomb of text": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * (1 << 23), 9)),
    "a bomb of colours": chunk(b"iCCP", b"a\0\0" + zlib.compress(b"0" * (1 << 23), 9)),
    "text packed in another way": chunk(b"zTXt", b"a\0\7junk"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"!",
    "a short gamma": chunk(b"gAMA", b"1"),
    "a short scale": chunk(b"pHYs", b"1"),
    "a cut animation": chunk(b"acTL", b"1"),
    "EXIF that is none": chunk(b"eXIf", b"junk"),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS.values(), ids=METADATA_FAULTS)
def test_damaged_metadata_costs_no_png(fault):
    """It is written anew, since other decoders would stumble as well."""
    made = SafeImageDecoder(PIXELS).reencode(png(4, 4, b"\0\7\7\7\7" * 4, extra=fault))
    assert (decode_image(made) == 7).all()
    assert fault not in made


def test_damaged_metadata_hides_no_damaged_picture():
    whole = picture(random.Random(0), "PNG")
    cut = whole[:33] + METADATA_FAULTS["a wrong checksum"] + whole[33:1000]
    huge = png(60_000, 60_000, b"", extra=METADATA_FAULTS["a bomb of text"])
    for data, reason in ((cut, Reason.IMAGE_TRUNCATED), (huge, Reason.IMAGE_CORRUPT)):
        with pytest.raises(Rejected, match=str(reason)):
            SafeImageDecoder(PIXELS).decode(data)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_damaged_exif_turns_nothing(format, exif):
    sink = io.BytesIO()
    Image.new("RGB", (8, 4)).save(sink, format, exif=exif)
    assert SafeImageDecoder(100).decode(sink.getvalue()).shape == (4, 8, 3)


def test_a_thread_of_pixels_is_resized_without_growing():
    assert SafeImageDecoder(10**6, 64).decode(encode_png(np.zeros((1, 100_000, 3), np.uint8))).shape == (64, 64, 3)


def test_a_fault_that_is_kept_holds_only_its_text(tmp_path):
    hostile = Hostile(random.Random(3))
    (tmp_path / "a.tar").write_bytes(hostile.tar("a.tar", 60)[:-2000])
    faults = [found.error for found in open_image_set(tmp_path, "webdataset").samples() if isinstance(found, BadSample)]
    assert len(faults) > 30
    assert [why for why in faults if why.__traceback__ or why.__cause__ or why.__context__] == []
    assert str(Rejected(Reason.NO_CAPTION, "it is null")) == "no caption: it is null"


def test_an_error_is_the_same_in_every_process():
    """A library's message may hold the address of an object."""
    for data in (b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xffjunk"):
        with pytest.raises(Rejected) as first:
            SafeImageDecoder(100).decode(data)
        assert "0x" not in first.value.detail.replace("\\x", "")
    assert str(Rejected(Reason.PROMPT_FAILED, "<Pipe object at 0x7f00AB12> at 0x1, not 0x2")) == (
        "the teacher failed on the prompt: <Pipe object>, not 0x2"
    )


def write_pair(folder: Path, image: str, caption: str = "a cat", format: str = "PNG") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(picture(random.Random(0), format))
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


@pytest.mark.parametrize("suffix", ["avif", "AVIF", "heic", "jxl", "tif", "bmp", "gif"])
def test_an_image_of_another_kind_is_quarantined_as_one(tmp_path, suffix):
    write_pair(tmp_path / "set", f"a.{suffix}", format="GIF")
    write_pair(tmp_path / "set", "b.png")
    made = run_synthesis(tmp_path, ["a cat"], path=tmp_path / "set", format="folder", max_pixels=PIXELS)
    assert (made.images["source"].to_pylist(), made.quarantine["source"].to_pylist()) == (["b"], ["a"])
    assert made.quarantine["reason"].to_pylist() == [Reason.NOT_AN_IMAGE]


@pytest.mark.parametrize("others", [("avif",), ("gif", "tiff"), ("bmp", "cls")])
def test_an_image_that_can_be_decoded_is_preferred(tmp_path, others):
    for suffix in others:
        write_pair(tmp_path, f"a.{suffix}", format="GIF")
    write_pair(tmp_path, "a.jpg")
    (found,) = open_image_set(tmp_path, "folder").samples()
    assert isinstance(found, Sample) and found.byte_range.file == "a.jpg"


def test_a_caption_without_image_names_the_files_beside_it(tmp_path):
    write_pair(tmp_path, "a.psd")
    (found,) = open_image_set(tmp_path, "folder").samples()
    assert isinstance(found, BadSample) and found.error.reason is Reason.NO_IMAGE
    assert found.error.detail == "a caption without a picture of its key, beside ['a.psd']"


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
    "value", ["null", "7", '["a", "b"]', '{"en": "a"}', '" "', "true", '"\\ud800"', f'"{"x" * 10_001}"']
)
def test_the_first_usable_caption_field_counts(tmp_path, value):
    write_pair(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(f'{{"prompt": {value}, "caption": null, "text": "a dog"}}')
    assert [sample.caption for sample in samples(tmp_path, "folder")] == ["a dog"]
    (tmp_path / "a.json").write_text(f'{{"prompt": {value}}}')  # the text file is the next one
    assert [sample.caption for sample in samples(tmp_path, "folder")] == ["a cat"]


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
    pq.write_table(pa.table({"image": [b"x"], "caption": [["a", "b"]]}), tmp_path / "a.parquet")
    with pytest.raises(ImageSetError, match=r"caption \(list<.*>\); expected captions, as text, in one of prompt"):
        list(open_image_set(tmp_path, "parquet").samples())


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
        (tmp_path / name).write_bytes(picture(random.Random(0), "PNG"))
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
    assert bad == {"3": Reason.CAPTION_FIELD, "4": Reason.NO_IMAGE} | {
        f"metadata.jsonl, line {number}": Reason.CAPTION_JSON for number in (6, 7, 8)
    }
