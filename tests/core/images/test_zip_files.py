"""Zip archives are read as the folders that they hold, on this machine and at an address."""

import zipfile
from pathlib import Path

import fsspec
import pytest

from lightgen_core.images.files import read_files
from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.images.zip_files import ZipFiles
from lightgen_core.rejected import Reason, Rejected
from tasks.context.digests import content_digest
from tests.factories.image_forms import FORMS, write_form


def archive(folder: Path, top: str = "", macos: bool = False) -> Path:
    """Zip a folder, perhaps with what macOS adds."""
    path = folder.with_suffix(".ZIP")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(folder.rglob("*")):
            file.write(each, top + each.relative_to(folder).as_posix())
        if macos:
            file.writestr(f"__MACOSX/{top}._0.png", b"\0\5\26\7")
    return path


def content(path: Path | str) -> list[tuple[str, bytes | Rejected]]:
    opened = open_image_set(path)
    samples = [each for each in opened.samples() if isinstance(each, Sample)]
    images = opened.read([sample.byte_range for sample in samples])
    return [(sample.caption, image) for sample, image in zip(samples, images, strict=True)]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "hub layout"])
def test_an_archive_has_the_images_and_captions_of_its_folder(tmp_path, form):
    folder = write_form(form, tmp_path / "set")
    there = content(folder)
    assert len(there) >= 3
    assert content(archive(folder)) == there
    assert content(archive(folder, top="my photos-main/")) == there


def test_an_archive_of_a_set_with_splits_is_to_be_unzipped(tmp_path):
    with pytest.raises(ImageSetError, match=r"set\.ZIP holds a data set with splits.*: unzip it"):
        open_image_set(archive(write_form("hub layout", tmp_path / "set")))


def test_an_archive_at_an_address_is_read_in_place(tmp_path):
    folder = write_form("txt beside images", tmp_path / "set")
    fsspec.filesystem("memory").pipe("/bucket/set.zip", archive(folder).read_bytes())
    assert content("memory://bucket/set.zip") == content(folder)
    before = content_digest("memory://bucket/set.zip")
    (folder / "0.txt").write_text("a red BOAT")  # as many bytes
    fsspec.filesystem("memory").pipe("/bucket/set.zip", archive(folder).read_bytes())
    assert content_digest("memory://bucket/set.zip") != before


def test_what_macos_adds_is_named_and_passed_over(tmp_path):
    folder = write_form("txt beside images", tmp_path / "set")
    path = archive(folder, top="my photos/", macos=True)
    assert content(path) == content(folder)
    bad = [each for each in open_image_set(path).samples() if isinstance(each, BadSample)]
    assert [each.error.reason for each in bad] == [Reason.HIDDEN]


def test_a_damaged_member_costs_that_image_and_no_other(tmp_path):
    path = archive(write_form("txt beside images", tmp_path / "set"))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("sub dir/2.png").header_offset
    data[start + 60] ^= 0xFF
    path.write_bytes(data)
    files = ZipFiles.open_archive(str(path), str(path))
    first, second = read_files(files, ["0.png", "sub dir/2.png"], 1 << 20)
    assert isinstance(first, bytes)
    assert isinstance(second, Rejected)
    assert second.reason == Reason.ARCHIVE_CORRUPT


@pytest.mark.parametrize("data", [b"", b"PK\3\4 not an archive", b"<html>404</html>"])
def test_what_is_no_archive_is_told_as_that(tmp_path, data):
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ImageSetError, match=r"set\.zip is no zip archive, or was cut"):
        open_image_set(tmp_path / "set.zip")
