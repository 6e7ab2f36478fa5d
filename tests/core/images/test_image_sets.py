"""Image sets: what is right is read, what is damaged or hostile is named with its true reason, and nothing crashes."""

import gzip
import io
import os
import random
import resource
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason, Rejected
from tests.factories.hostile_images import BYTES, PIXELS, encoded_image
from tests.factories.hostile_set import Hostile, write_folder, write_parquet
from tests.factories.hostile_tars import END, bomb, member
from tests.support.run_stage import run_synthesis

SIX = [f"caption {n}" for n in range(6)]


def samples(path: Path, format: str) -> list[Sample]:
    return [found for found in open_image_set(path, format).samples() if isinstance(found, Sample)]


def write_set(root: Path, format: str, rng: random.Random) -> list[bytes]:
    """Six samples in two files or folders; returns their images in the set's order."""
    root.mkdir()
    pictures = [encoded_image(rng, "PNG" if n % 2 else "JPEG") for n in range(6)]
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


def test_a_fault_that_is_kept_holds_only_its_text(tmp_path):
    hostile = Hostile(random.Random(3))
    (tmp_path / "a.tar").write_bytes(hostile.tar("a.tar", 60)[:-2000])
    faults = [found.error for found in open_image_set(tmp_path, "webdataset").samples() if isinstance(found, BadSample)]
    assert len(faults) > 30
    assert [why for why in faults if why.__traceback__ or why.__cause__ or why.__context__] == []
    assert str(Rejected(Reason.NO_CAPTION, "it is null")) == "no caption: it is null"
