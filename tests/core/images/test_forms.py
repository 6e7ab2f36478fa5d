"""Every form of an image set is found by what lies there, on this machine and on S3, with the same result."""

import shutil

import pytest

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.readers import read_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.images.image_set import ImageSetError, open_image_set
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Reason
from tests.factories.image_forms import CAPTIONS, FORMS, images, write_form
from tests.support.s3_server import s3_files, s3_server


def read(location, **options):
    """Samples as (caption, bytes), keys of bad samples with their reasons, and the form."""
    opened = open_image_set(str(location), **options)
    found = list(opened.samples())
    good = [sample for sample in found if isinstance(sample, Sample)]
    data = list(opened.read([sample.byte_range for sample in good]))
    bad = {sample.key: sample.error.reason for sample in found if isinstance(sample, BadSample)}
    return list(zip((sample.caption for sample in good), data, strict=True)), bad, opened.form


pytestmark = pytest.mark.slow(rank=16)

WHOLE = list(zip(CAPTIONS, images(), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_found_and_read_without_being_named(tmp_path, form):
    root = write_form(form, tmp_path / "set")
    assert read(root) == (WHOLE, {}, FORMS[form][1])
    captions = list(read_captions(CaptionFile(path=str(root))))
    assert [caption.text for caption in captions if isinstance(caption, Caption)] == list(CAPTIONS)


def test_captions_are_read_from_s3(tmp_path, bucket):
    for form in ("metadata.csv", "parquet"):
        s3_files().put(f"{write_form(form, tmp_path / form)}/", f"{bucket}/captions/{form}/", recursive=True)
        captions = read_captions(CaptionFile(path=f"{bucket}/captions/{form}"))
        assert [caption.text for caption in captions if isinstance(caption, Caption)] == list(CAPTIONS)


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri.removesuffix("/store")


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_from_s3_as_from_a_folder(tmp_path, bucket, form):
    """The samples have the same keys in the same order."""
    root, address = write_form(form, tmp_path / "set"), f"{bucket}/{form.replace(' ', '-')}"
    s3_files().put(f"{root}/", f"{address}/", recursive=True)
    opened, here = open_image_set(address), open_image_set(root)
    found = list(opened.samples())
    assert (found, opened.form) == (list(here.samples()), here.form)
    assert list(opened.read([sample.byte_range for sample in found])) == images()


@pytest.mark.parametrize("name", ["tar", "jsonl of base64", "parquet"])
def test_one_file_is_a_set_on_this_machine_and_on_s3(tmp_path, bucket, name):
    root = write_form(name, tmp_path / "set")
    (file,) = root.iterdir()
    s3_files().put(str(file), f"{bucket}/one/{file.name}")
    assert read(file) == read(f"{bucket}/one/{file.name}") == (WHOLE, {}, FORMS[name][1])


def test_an_address_without_anything_is_explained(bucket):
    with pytest.raises(ImageSetError, match=r"there is nothing at s3://.*/nowhere; check the address"):
        open_image_set(f"{bucket}/nowhere")


@pytest.mark.parametrize(("split", "count"), [(None, 3), ("train", 3), ("test", 1)])
@pytest.mark.parametrize("form", ["hub layout", "save_to_disk with splits"])
def test_a_split_of_a_data_set_is_read(tmp_path, form, split, count):
    assert read(write_form(form, tmp_path / "set"), split=split)[0] == WHOLE[:count]


def test_a_split_that_is_not_there_names_the_others(tmp_path):
    for form in ("hub layout", "save_to_disk with splits"):
        root = write_form(form, tmp_path / form)
        with pytest.raises(ImageSetError, match="has no split 'val'; its splits are train, test: set split"):
            open_image_set(root, split="val")


def test_splits_by_folder_have_their_own_metadata(tmp_path):
    """Without a split all of them are read."""
    for split in ("train", "validation"):
        write_form("metadata.jsonl", tmp_path / split)
    assert [caption for caption, _ in read(tmp_path)[0]] == [*CAPTIONS, *CAPTIONS]
    assert read(tmp_path, split="validation") == (WHOLE, {}, "folder")


def test_metadata_above_the_splits_serve_each_of_them(tmp_path):
    write_form("metadata.jsonl", tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    lines = (tmp_path / "train" / "metadata.jsonl").read_text().splitlines()
    for split in ("train", "test"):
        (tmp_path / split / "metadata.jsonl").unlink()
    text = "\n".join(line.replace('"file_name": "', f'"file_name": "{s}/') for s in ("train", "test") for line in lines)
    (tmp_path / "metadata.jsonl").write_text(text)
    assert read(tmp_path, split="test") == (WHOLE, {}, "folder")


@pytest.mark.parametrize(("given", "count"), [({"subset": "small"}, 1), ({"subset": "all"}, 3), ({}, None)])
def test_a_subset_is_chosen_by_name(tmp_path, given, count):
    root = write_form("hub layout", tmp_path / "set")
    configs = [("all", "data/train-*"), ("small", "data/test-*")]
    lines = "".join(f"- config_name: {name}\n  data_files: {path}\n" for name, path in configs)
    (root / "README.md").write_text(f"---\nconfigs:\n{lines}---\n")
    if count is None:
        with pytest.raises(ImageSetError, match="has several subsets; set subset to one of all, small"):
            open_image_set(root)
    else:
        assert read(root, **given)[0] == WHOLE[:count]


def test_what_lies_beside_a_form_is_named_by_its_kind(tmp_path):
    """img2dataset leaves a table of its downloads beside each tar."""
    root = write_form("tar", tmp_path)
    for name in ("00000.parquet", "00001.parquet", "cover.jpg", ".hidden.tar"):
        (root / name).write_bytes(b"x")
    good, bad, form = read(root)
    assert (good, form) == (WHOLE, "webdataset")
    assert bad == {
        ".hidden.tar": Reason.HIDDEN,
        "00000.parquet": Reason.UNKNOWN_FILE,
        "cover.jpg": Reason.UNKNOWN_FILE,
    }


def test_a_table_without_images_leaves_the_set_a_folder(tmp_path):
    root = write_form("txt beside images", tmp_path)
    (root / "scores.csv").write_text("name,score\na,1\n")
    (root / "log.jsonl").write_text('{"loss": 1}\n')
    good, bad, form = read(root)
    assert (good, form) == (WHOLE, "folder")
    assert bad == {"log": Reason.UNKNOWN_FILE, "scores": Reason.UNKNOWN_FILE}


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    (tmp_path / "b.md").write_text("#")
    with pytest.raises(
        ImageSetError, match=r"holds no image set: found 1 x \.zip, 1 x \.md; expected images, or \.tar"
    ):
        open_image_set(tmp_path)
