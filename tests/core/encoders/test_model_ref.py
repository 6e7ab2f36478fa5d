"""Names of frozen models: what they mean, what pins them, and which files tell a model's weights from another's."""

import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from lightgen_core.encoders.model_ref import ModelNotFound, ModelRef, parse_model_ref, resolve
from tasks.context.digests import weights_digest

COMMIT = "3d7c5902f1a4b6e8d0c2a4b6e8d0c2a4b6e8d0c2"


@pytest.mark.parametrize(
    ("text", "repository", "subfolder", "revision", "pinned"),
    [
        ("google/flan-t5-xxl", "google/flan-t5-xxl", None, None, False),
        ("google/flan-t5-xxl@main", "google/flan-t5-xxl", None, "main", False),
        (f"google/flan-t5-xxl@{COMMIT}", "google/flan-t5-xxl", None, COMMIT, True),
        (f"org/name/vae@{COMMIT}", "org/name", "vae", COMMIT, True),
        ("gpt2", "gpt2", None, None, False),
    ],
)
def test_a_hub_name_is_cut_into_repository_folder_and_revision(text, repository, subfolder, revision, pinned):
    found = parse_model_ref(text)
    assert (found.source, found.subfolder, found.revision, found.pinned) == (repository, subfolder, revision, pinned)
    assert found.options == {k: v for k, v in (("subfolder", subfolder), ("revision", revision)) if v}


def test_a_folder_is_itself_whatever_its_name(tmp_path, monkeypatch):
    (tmp_path / "org" / "name@main").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_model_ref("org/name@main").path == Path("org/name@main")
    assert parse_model_ref("zoo:t5") == ModelRef("zoo:t5", Path(resolve("zoo:t5")))
    assert parse_model_ref("zoo:t5").pinned and parse_model_ref("zoo:t5").commit() is None


@pytest.mark.parametrize("text", ["/nosuch/folder", "./models/vae", "~/nosuch", "org//name"])
def test_a_path_to_nothing_is_an_error_and_not_a_download(text):
    with pytest.raises(ModelNotFound, match="there is nothing at"):
        parse_model_ref(text)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache that holds org/name, its main branch at COMMIT."""
    folder = tmp_path / "hub" / "models--org--name"
    (folder / "snapshots" / COMMIT / "vae").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "vae" / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def test_the_commit_of_an_unpinned_model_is_in_the_local_cache(cache):
    assert parse_model_ref("org/name/vae").commit() == COMMIT
    assert parse_model_ref("org/name/vae@main").commit() == COMMIT
    assert parse_model_ref("org/name/vae").here() == cache / "snapshots" / COMMIT / "vae"
    assert parse_model_ref("org/name/vae@other").commit() is None
    assert parse_model_ref("org/other").commit() is None


def test_a_digest_follows_the_bytes_and_not_the_path(tmp_path):
    shutil.copytree(resolve("zoo:clip"), tmp_path / "copy")
    assert weights_digest(str(tmp_path / "copy")) == weights_digest("zoo:clip") != weights_digest("zoo:t5")
    weights = tmp_path / "copy" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert weights_digest(str(tmp_path / "copy")) != weights_digest("zoo:clip")


def test_a_vocabulary_is_part_of_the_digest(tmp_path):
    shutil.copytree(resolve("zoo:t5"), tmp_path / "copy")
    for name in ("spiece.model", "merges.txt"):
        before = weights_digest(str(tmp_path / "copy"))
        (tmp_path / "copy" / name).write_text("words")
        assert weights_digest(str(tmp_path / "copy")) != before


def test_a_hub_model_needs_no_digest_beside_its_revision():
    assert weights_digest("google/flan-t5-xxl@main") is None


def test_an_open_clip_file_is_digested(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    before = weights_digest(f"ViT-B-32/{path}")
    path.write_bytes(b"two")
    assert before and weights_digest(f"ViT-B-32/{path}") != before


def test_a_folder_without_safetensors_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match=r"holds no .*safetensors"):
        weights_digest(str(tmp_path))


def test_finding_and_digesting_a_model_does_not_import_torch():
    code = (
        "import sys; from lightgen_core.encoders import model_ref; from tasks.context import digests; "
        "digests.weights_digest('zoo:t5'); model_ref.parse_model_ref('org/name').commit(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
