"""Data sets of the Hugging Face hub, by id: streamed at one commit from a stand-in, or from the cache when offline."""

import datasets.config
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem, snapshot_download

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import read_captions
from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.location import HubDataset, parse_hub
from lightgen_core.images.sample import Sample
from tasks.context.digests import ContentNotFound, content_digest
from tests.factories.image_forms import CAPTIONS, FORMS, images, write_form
from tests.support.hub_server import NAME, HubServer, hub_server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    with hub_server(tmp_path / "set") as server:
        for module, name, value in (
            (huggingface_hub.constants, "ENDPOINT", server.address),
            (
                huggingface_hub.constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                server.address + "/{repo_id}/resolve/{revision}/{filename}",
            ),
            (huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub")),
            (huggingface_hub.constants, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_ENDPOINT", server.address),
        ):
            monkeypatch.setattr(module, name, value)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


def read(location, **options) -> list[tuple[str, bytes]]:
    opened = open_image_set(location, **options)
    good = [sample for sample in opened.samples() if isinstance(sample, Sample)]
    return list(zip((s.caption for s in good), opened.read([s.byte_range for s in good]), strict=True))


@pytest.mark.parametrize("form", ["hub layout", "metadata.csv", "tar", "jsonl of paths", "txt beside images"])
def test_a_set_of_the_hub_is_read_by_its_id(hub: HubServer, form):
    write_form(form, hub.root)
    opened = open_image_set(NAME)
    assert opened.form == FORMS[form][1]
    assert read(NAME) == list(zip(CAPTIONS, images(), strict=True))
    assert [caption.text for caption in read_captions(CaptionFile(path=NAME))] == list(CAPTIONS)


def test_split_and_folder_of_a_set_of_the_hub(hub: HubServer):
    write_form("hub layout", hub.root)
    assert [caption for caption, _ in read(NAME, split="test")] == [CAPTIONS[0]]
    assert [caption for caption, _ in read(f"hf://datasets/{NAME}@{'a' * 40}/data")] == list(CAPTIONS)


def test_captions_of_a_large_set_are_read_without_its_images(hub: HubServer):
    """Less than a tenth of the bytes come over the wire."""
    noise = [bytes([n]) + b"\\x89PNG" + images()[0] * 400 for n in range(8)]
    table = pa.table({"image": pa.array(noise, pa.binary()), "text": [f"caption {n}" for n in range(8)]})
    pq.write_table(table, hub.root / "a.parquet", compression="none", use_dictionary=False, row_group_size=1)
    size = (hub.root / "a.parquet").stat().st_size
    opened = open_image_set(NAME)
    assert len(list(opened.samples())) == 8
    assert size > 20_000_000 and hub.sent < size / 10


def test_the_key_of_a_set_of_the_hub_is_its_commit(hub: HubServer):
    assert content_digest(NAME) == "a" * 40
    hub.commits.append("b" * 40)
    assert content_digest(NAME) == "b" * 40
    assert content_digest(f"{NAME}@{'a' * 40}") == "a" * 40
    assert content_digest(f"hf://datasets/{NAME}@{'a' * 40}/data") == f"{'a' * 40}/data"


def test_a_name_that_is_neither_path_nor_set_says_both(hub: HubServer):
    message = "there is no someone/nothing on this machine, and the hub gives no data set of that name"
    with pytest.raises(ContentNotFound, match=message):
        content_digest("someone/nothing")
    with pytest.raises(ImageSetError, match=message):
        open_image_set("someone/nothing")


def test_offline_the_cache_is_read_and_nothing_requested(hub: HubServer, monkeypatch):
    write_form("metadata.jsonl", hub.root)
    snapshot_download(NAME, repo_type="dataset")
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert content_digest(NAME) == "a" * 40
    assert read(NAME) == list(zip(CAPTIONS, images(), strict=True))
    with pytest.raises(ImageSetError, match="neither as a path nor in the hub's cache, and HF_HUB_OFFLINE is set"):
        open_image_set("someone/nothing")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("org/name", HubDataset("org/name")),
        ("org/name@v1.0", HubDataset("org/name", "v1.0")),
        ("hf://datasets/org/name", HubDataset("org/name")),
        ("hf://datasets/org/name@main/train", HubDataset("org/name", "main", "train")),
        ("data/captions.jsonl", None),
        ("./org/name", None),
        ("org/name/folder", None),
        ("s3://bucket/name", None),
        ("/org/name", None),
    ],
)
def test_a_location_is_of_the_hub_or_not(tmp_path, monkeypatch, text, parsed):
    assert parse_hub(text) == parsed
    monkeypatch.chdir(tmp_path)
    if "://" not in text and not text.startswith("/"):
        (tmp_path / text).mkdir(parents=True)
        assert parse_hub(text) is None
