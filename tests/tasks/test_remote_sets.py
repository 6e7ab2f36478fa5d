"""Image sets on S3 in the stages: the key follows the content, and a server in trouble costs no image."""

import pytest

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import read_captions
from lightgen_core.images.remote_files import RemoteReadError
from tasks.context.digests import ContentNotFound, content_digest
from tests.factories.image_forms import CAPTIONS, write_form
from tests.support.run_stage import run_synthesis
from tests.support.s3_server import s3_files, s3_server


@pytest.fixture
def server():
    """The bucket's address, and a list of faults: (pattern, status) that requests are answered with."""
    faults: list[str] = []

    def fault(request: str) -> tuple[int, str] | None:
        return (404, "NoSuchKey") if any(name in request for name in faults) and request.startswith("GET") else None

    with s3_server(fault=fault) as uri:
        yield uri.removesuffix("/store"), faults


def put(form: str, folder, address: str) -> None:
    s3_files().put(f"{write_form(form, folder)}/", f"{address}/", recursive=True)


@pytest.mark.parametrize("form", ["metadata.csv", "tar", "parquet"])
def test_synthesis_on_s3_has_the_images_of_the_folder(tmp_path, server, form):
    address = f"{server[0]}/set"
    put(form, tmp_path / "set", address)
    here = run_synthesis(tmp_path / "a", list(CAPTIONS), path=tmp_path / "set")
    there = run_synthesis(tmp_path / "b", list(CAPTIONS), path=address)
    assert there.images.to_pylist() == here.images.to_pylist()
    assert [file.sha256 for file in there.manifest.files] == [file.sha256 for file in here.manifest.files]
    assert there.manifest.counts["rows"] == 3


def test_the_digest_of_an_address_follows_its_content(tmp_path, server):
    address = f"{server[0]}/set"
    put("txt beside images", tmp_path / "set", address)
    before, fs = content_digest(address), s3_files()
    assert content_digest(f"{address}/") == before
    fs.pipe(f"{address}/0.txt", b"a red BOAT")
    changed = content_digest(address)
    fs.pipe(f"{address}/0.txt", b"a red boat")
    assert (changed != before, content_digest(address)) == (True, before)
    assert content_digest(f"{address}/0.txt") != content_digest(f"{address}/0.png")
    with pytest.raises(ContentNotFound, match=r"there is nothing at s3://.*/nowhere"):
        content_digest(f"{server[0]}/nowhere")


@pytest.mark.parametrize(("form", "name"), [("txt beside images", "0.png"), ("parquet", "a.parquet"), ("tar", "0.tar")])
def test_a_file_that_the_server_does_not_give_stops_the_stage(tmp_path, server, form, name):
    """It is no damaged image, which would be left out for ever."""
    address, faults = f"{server[0]}/set", server[1]
    put(form, tmp_path / "set", address)
    faults.append(f"/set/{name}")
    with pytest.raises(RemoteReadError, match=f"{name} cannot be read: FileNotFoundError"):
        run_synthesis(tmp_path / "a", list(CAPTIONS), path=address)
    if form != "txt beside images":
        with pytest.raises(RemoteReadError):
            list(read_captions(CaptionFile(path=address)))
