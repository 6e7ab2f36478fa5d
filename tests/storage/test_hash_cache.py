"""Hashes of files: when one is remembered, when it is computed again, and what a set of files is told by."""

import json
import os
import shutil

import pytest

from storage import hash_cache
from storage.hash_cache import digest_of, sha256_of
from tasks.context.digests import ContentNotFound, content_digest


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """The list of files that were hashed, with a fresh memory in which every file counts as large and settled."""
    monkeypatch.setattr(hash_cache, "_MIN_BYTES", 4)
    monkeypatch.setattr(hash_cache, "_SETTLE_SECONDS", -60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, plain = [], hash_cache.hash_file
    monkeypatch.setattr(hash_cache, "hash_file", lambda path: names.append(path.name) or plain(path))
    return names


@pytest.fixture
def root(tmp_path):
    """A set of three large files."""
    (tmp_path / "set").mkdir()
    for name in ("a.tar", "b.tar", "c.tar"):
        (tmp_path / "set" / name).write_text(f"content of {name}")
    return tmp_path / "set"


def test_a_set_is_read_once_and_later_only_what_has_changed(hashed, root):
    first = content_digest(root)
    assert content_digest(root) == first and hashed == ["a.tar", "b.tar", "c.tar"]
    (root / "d.tar").write_text("content of d.tar")
    assert content_digest(root) != first and hashed[3:] == ["d.tar"]
    (root / "d.tar").unlink()
    assert content_digest(root) == first and len(hashed) == 4


def test_a_change_is_noticed_though_size_and_time_are_put_back(hashed, root):
    before, times = content_digest(root), (root / "b.tar").stat()
    (root / "b.tar").write_text("CONTENT OF B.TAR"[: times.st_size].ljust(times.st_size))
    os.utime(root / "b.tar", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(root) != before


def test_a_digest_follows_names_and_contents_and_not_the_path(hashed, root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    assert content_digest(tmp_path / "copy") == content_digest(root)
    (tmp_path / "copy" / "a.tar").rename(tmp_path / "copy" / "z.tar")
    assert content_digest(tmp_path / "copy") != content_digest(root)
    assert content_digest(root / "a.tar") == sha256_of(root / "a.tar") != digest_of({b"a.tar": root / "a.tar"})


def test_a_link_counts_with_the_content_of_its_target(hashed, root, tmp_path):
    """It differs from a plain file of that content."""
    plain = content_digest(root)
    shutil.move(root / "c.tar", tmp_path / "elsewhere.tar")
    (root / "c.tar").symlink_to(tmp_path / "elsewhere.tar")
    linked = content_digest(root)
    assert linked != plain
    (tmp_path / "elsewhere.tar").write_text("CONTENT OF C.TAR")
    assert content_digest(root) != linked
    top = tmp_path / "top.tar"
    top.symlink_to(root / "c.tar")
    assert content_digest(top) == sha256_of(tmp_path / "elsewhere.tar")


def test_pipes_dangling_and_circular_links_count_by_their_names(hashed, root):
    before = content_digest(root)
    os.mkfifo(root / "pipe")
    (root / "gone").symlink_to("nowhere")
    (root / "round").symlink_to(root)
    assert content_digest(root) != before
    assert len(hashed) == 3


def test_nothing_at_the_path_is_named(tmp_path):
    with pytest.raises(ContentNotFound, match="which the recipe names"):
        content_digest(tmp_path / "nowhere")


def test_a_file_that_changed_a_moment_ago_is_not_remembered(hashed, root, monkeypatch):
    monkeypatch.setattr(hash_cache, "_SETTLE_SECONDS", 60)
    assert sha256_of(root / "a.tar") == sha256_of(root / "a.tar")
    assert len(hashed) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(hashed, root, monkeypatch):
    plain = hash_cache.hash_file

    def changing(path):
        found = plain(path)
        path.write_text("another content")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hash_cache, "hash_file", changing)
        sha256_of(root / "a.tar")
    assert not (root.parent / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"e3b0c442", b"\xff" * 64, b"[]", b'{"a": 1}'])
def test_a_damaged_memory_costs_a_hash_and_nothing_else(hashed, root, damage):
    first = sha256_of(root / "a.tar")
    (memory,) = (root.parent / "cache" / "lightgen" / "digests").iterdir()
    memory.write_bytes(damage)
    assert sha256_of(root / "a.tar") == first
    assert len(hashed) == 2 and list(json.loads(memory.read_text()).values()) == [first]


def test_an_impossible_cache_folder_costs_only_a_hash(hashed, root):
    (root.parent / "cache").write_text("a file in the way")
    assert sha256_of(root / "a.tar") == sha256_of(root / "a.tar")
    assert len(hashed) == 2


def test_small_files_arehash_file_each_time_and_leave_no_memory(hashed, root, monkeypatch):
    monkeypatch.setattr(hash_cache, "_MIN_BYTES", 1000)
    assert content_digest(root) == content_digest(root)
    assert len(hashed) == 6 and not (root.parent / "cache").exists()


def test_files_of_a_linked_folder_count_with_their_content(tmp_path):
    for name in ("set/a.tar", "elsewhere/b.tar"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("one")
    (tmp_path / "set" / "linked").symlink_to("../elsewhere")
    (tmp_path / "set" / "up").symlink_to("..")  # holds the set: not entered
    first = content_digest(tmp_path / "set")
    (tmp_path / "other").write_text("beside it")
    assert content_digest(tmp_path / "set") == first
    (tmp_path / "elsewhere" / "b.tar").write_text("another")
    assert content_digest(tmp_path / "set") != first
