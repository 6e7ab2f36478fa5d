"""Packages of npm: fetched once, put there by hand, or an error that says what to do."""

import io
import tarfile

import pytest

from lightgen_core.emoji.packages import PACKAGES, Package, PackagesUnavailable, fetch, move_unless_there

PACKAGE = Package("@someone/images", "1.0.0")


def write_archive(path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Return a function that puts a shell script in npm's place."""

    def put(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return put


def test_archive_that_lies_there_needs_no_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    write_archive(tmp_path / "someone-images-1.0.0.tgz", {"icons.json": b"{}", "deep/er.txt": b"x"})
    folder = fetch(PACKAGE, tmp_path)
    assert (folder / "icons.json").read_bytes() == b"{}"
    assert (folder / "deep" / "er.txt").read_bytes() == b"x"
    (tmp_path / "someone-images-1.0.0.tgz").unlink()
    assert fetch(PACKAGE, tmp_path) == folder, "fetched once"


def test_missing_npm_says_where_an_archive_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PackagesUnavailable, match=r"npm, which is not installed.*someone-images-1\.0\.0\.tgz, into"):
        fetch(PACKAGE, tmp_path)


def test_npm_error_is_told_and_leaves_nothing(tmp_path, fake_npm):
    fake_npm("echo 'npm error 404 Not Found' >&2; exit 1")
    with pytest.raises(PackagesUnavailable, match="404 Not Found"):
        fetch(PACKAGE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_npm_is_asked_for_the_version(tmp_path, fake_npm):
    write_archive(tmp_path / "made.tgz", {"icons.json": b"[]"})
    fake_npm(f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/made.tgz "$4"/someone-images-1.0.0.tgz')
    assert (fetch(PACKAGE, tmp_path / "cache") / "icons.json").read_bytes() == b"[]"
    assert "@someone/images@1.0.0" in (tmp_path / "asked").read_text()


def test_archive_that_leads_out_of_its_folder_is_refused(tmp_path):
    path = tmp_path / "someone-images-1.0.0.tgz"
    write_archive(path, {"../../outside.txt": b"x"})
    with pytest.raises(tarfile.FilterError):
        fetch(PACKAGE, tmp_path)
    assert not (tmp_path.parent / "outside.txt").exists()


def test_folder_of_a_process_that_was_first_stays(tmp_path):
    """Another process may read it already."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who.txt").write_text(name)
    move_unless_there(tmp_path / "first", tmp_path / "folder")
    move_unless_there(tmp_path / "second", tmp_path / "folder")
    assert (tmp_path / "folder" / "who.txt").read_text() == "first"
    with pytest.raises(FileNotFoundError):
        move_unless_there(tmp_path / "nothing", tmp_path / "elsewhere")


def test_every_package_has_a_version_and_an_archive_of_its_own():
    assert len({package.archive for package in PACKAGES}) == len(PACKAGES)
    assert all(package.version.count(".") == 2 for package in PACKAGES)
