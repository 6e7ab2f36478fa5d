"""The contract of a store, tested on every kind; `LIGHTGEN_TEST_STORE=URI` adds one of the user's own."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import s3
from storage.lock import file_lock
from storage.open_store import open_store
from storage.store import StoreError

pytest_plugins = ["tests.support.every_store"]

HOSTILE = [
    "a b",
    "ä/ö.bin",
    "雪.bin",
    "100%25.bin",
    "a+b&c=d.bin",
    "x#y.bin",
    "what?.bin",
    "a[1].bin",
    "[b]*?.bin",
    "~home.bin",
    ".hidden",
    "a::b.bin",
    "quote'\".bin",
    "back\\slash.bin",
    "-rf",
    "x.partial",
    "n" * 250,
]


def test_what_is_written_is_read_back_and_listed_with_its_size(store):
    store.write("x/y.bin", b"12345")
    assert (store.read("x/y.bin"), store.files("x"), store.exists("x/y.bin")) == (b"12345", {"y.bin": 5}, True)
    with store.open("x/y.bin") as file:
        file.seek(1)
        assert (file.read(2), file.read()) == (b"23", b"45")


def test_a_missing_path_is_no_file_no_listing_and_no_removal(store, tmp_path):
    for read in (store.read, store.open, lambda path: store.download(path, tmp_path / "copy")):
        with pytest.raises(FileNotFoundError):
            read("none")
    assert (store.exists("none"), store.files("none"), store.folders("none")) == (False, {}, [])
    store.remove("none")
    store.delete_except("none", set())


def test_an_empty_file_is_a_file(store, tmp_path):
    store.write("empty", b"")
    (tmp_path / "nothing").touch()
    store.write("sent", tmp_path / "nothing")
    store.download("empty", tmp_path / "copy")
    with store.open("empty") as file:
        assert file.read() == b""
    assert (store.files(""), store.read("sent"), (tmp_path / "copy").read_bytes()) == (
        {"empty": 0, "sent": 0},
        b"",
        b"",
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_a_name(store, name, tmp_path):
    for path in (name, f"deep/{name}"):
        store.write(path, b"1")
        assert store.create(path, b"2") is False
        assert (store.read(path), store.exists(path)) == (b"1", True)
        store.download(path, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"1"
    assert store.files("deep") == {name: 1}
    store.delete_except("deep", {name})
    assert store.files("deep") == {name: 1}
    store.write("deep/other", b"1")
    store.remove(f"deep/{name}")
    assert store.files("deep") == {"other": 1}


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../b"])
def test_a_path_that_leaves_the_store_is_refused(store, path):
    with pytest.raises(StoreError, match="leaves the store"):
        store.read(path)
    with pytest.raises(StoreError, match="leaves the store"):
        store.remove(path)


@pytest.mark.parametrize("path", ["a//b", "./a", "a/", "a/./b"])
def test_a_path_with_two_spellings_is_refused_in_all_but_one(store, path):
    with pytest.raises(StoreError, match="written as"):
        store.write(path, b"1")


def test_a_second_write_replaces_bytes_and_changes_the_version(store):
    store.write("x.bin", b"old")
    before = store.list_files("")["x.bin"]
    assert store.list_files("")["x.bin"] == before
    store.write("x.bin", b"new")
    assert store.read("x.bin") == b"new"
    assert store.list_files("")["x.bin"].etag != before.etag


@pytest.mark.parametrize("how", ["bytes", "file"])
def test_a_file_of_several_parts_goes_up_and_comes_down_whole(store, how, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART", 5 << 20)  # the least that S3 takes
    source = tmp_path / "big"
    source.write_bytes(os.urandom((12 << 20) + 1))
    content = source if how == "file" else source.read_bytes()
    store.write("copy", content)
    assert store.create("copy", content) is False
    assert store.create("second", content) is True
    store.download("second", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes() == store.read("copy")


def test_a_write_that_fails_leaves_the_old_bytes_and_no_torso(store, tmp_path):
    store.write("x.bin", b"old")
    for write in (store.write, store.create):
        with pytest.raises(FileNotFoundError):
            write("x.bin", tmp_path / "not there") if write == store.write else write("y.bin", tmp_path / "not there")
    assert store.read("x.bin") == b"old"
    assert store.files("") == {"x.bin": 3}


def test_another_handle_sees_writes_and_removals_at_once(store):
    other = open_store(store.uri)
    assert (other.files("late"), other.folders(""), other.exists("late/file.bin")) == ({}, [], False)
    store.write("late/file.bin", b"x")
    assert (other.files("late"), other.folders(""), other.read("late/file.bin")) == ({"file.bin": 1}, ["late"], b"x")
    store.write("late/file.bin", b"longer")
    assert (other.files("late"), other.read("late/file.bin")) == ({"file.bin": 6}, b"longer")
    store.remove("late")
    assert (other.files("late"), other.folders(""), other.exists("late/file.bin")) == ({}, [], False)


def test_a_file_of_another_process_is_seen_at_once(store):
    if store.uri.startswith("memory:"):
        pytest.skip("memory is one process's own")
    assert (store.files("x"), store.exists("x/a"), store.folders("")) == ({}, False, [])
    write = "import sys; from storage.open_store import open_store; open_store(sys.argv[1]).write('x/a', b'123')"
    subprocess.run(
        [sys.executable, "-c", write, store.uri], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    assert (store.files("x"), store.exists("x/a"), store.folders("")) == ({"a": 3}, True, ["x"])


def test_removing_a_folder_takes_all_of_it_and_nothing_beside_it(store):
    for path in ("gone/a", "gone/b/c", "gone-not", "kept/a"):
        store.write(path, b"1")
    store.remove("gone")
    assert store.files("") == {"gone-not": 1, "kept/a": 1}


def test_keep_only_removes_the_other_files_of_that_folder(store):
    for path in ("f/a", "f/b/a", "f/b/c", "g/b"):
        store.write(path, b"1")
    store.delete_except("f", {"a", "b/c"})
    assert store.files("") == {"f/a": 1, "f/b/c": 1, "g/b": 1}


def test_folders_are_listed_in_order_without_dot_names_and_files(store):
    for path in ("stage/key2/a", "stage/key1/a", "stage/key1/b", "stage/.hidden/a", "stage/file"):
        store.write(path, b"1")
    assert store.folders("stage") == ["key1", "key2"]
    assert store.files("stage/file") == {}


def test_a_listing_of_several_pages_is_complete_and_in_order(store, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "40")
    names = [f"{number:04d}" for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(f"many/{name}", b""), reversed(names)))
    assert list(store.files("many")) == names
    store.delete_except("many", set(names[:2]))
    assert list(store.files("many")) == names[:2]


def test_of_many_threads_one_creates_a_file_and_its_bytes_stay(store):
    ready = threading.Barrier(8)

    def create(number: int) -> bool:
        ready.wait()
        return store.create("one", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(8)))
    assert made.count(True) == 1
    assert store.read("one") == b"%d" % made.index(True)


def test_of_many_processes_that_create_a_file_one_does(store):
    if store.uri.startswith("memory:"):
        pytest.skip("memory is one process's own")
    code = (
        "import sys; from storage.open_store import open_store; "
        "store = open_store(sys.argv[1]); print(flush=True); input();"
        "print(store.create('one', sys.argv[2].encode()))"
    )
    command = [sys.executable, "-c", code, store.uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    racers = [subprocess.Popen([*command, str(n)], env=environment, **pipes) for n in range(2)]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate()[0].strip() for racer in racers]
    assert sorted(said) == ["False", "True"]
    assert store.read("one") == b"%d" % said.index("True")


def test_a_pickled_store_is_the_same_store(store):
    store.write("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import time; from pathlib import Path; from storage.lock import file_lock\n"
        f"with file_lock(Path({str(tmp_path)!r}) / 'k'):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with file_lock(tmp_path / "k", wait=False) as mine:
        assert not mine
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with file_lock(tmp_path / "k", wait=False) as mine:
        assert mine


def test_without_hard_links_a_lock_lets_one_caller_create(tmp_path, monkeypatch):
    def no_links(*names: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: open_store(str(tmp_path)).create("one", b"%d" % number), range(8)))
    assert (made.count(True), open_store(str(tmp_path)).read("one")) == (1, b"%d" % made.index(True))


def test_the_torso_of_a_killed_write_is_not_listed_and_is_swept(tmp_path):
    store = open_store(str(tmp_path))
    store.write("f/a", b"1")
    (tmp_path / "f" / f".{'0' * 32}.partial").write_bytes(b"torso")
    assert store.files("f") == {"a": 1}
    store.delete_except("f", {"a"})
    assert [path.name for path in Path(tmp_path, "f").iterdir()] == ["a"]


@pytest.mark.parametrize("uri", ["nosuch://bucket", "http://host/folder", "simplecache::s3://bucket/x", "s3://"])
def test_an_impossible_address_is_refused_with_an_example(uri):
    with pytest.raises(StoreError, match=r"s3://bucket/prefix"):
        open_store(uri)


def test_a_good_store_passes_as_writable_and_stays_as_it_was(store):
    store.require_writable()
    assert store.files("") == {}


def test_a_server_that_ignores_conditional_writes_is_no_store(empty, tmp_path, monkeypatch):
    store = empty("s3", tmp_path)
    put = store._put
    monkeypatch.setattr(store, "_put", lambda path, content, mode: put(path, content, "overwrite"))
    with pytest.raises(StoreError, match="If-None-Match"):
        store.require_writable()
    assert store.files("") == {}


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "Make room"), (errno.EDQUOT, "Make room"), (errno.EROFS, "LIGHTGEN_STORE")]
)
def test_a_failing_disk_is_named_with_advice_and_keeps_no_part(tmp_path, monkeypatch, number, advice):
    store = open_store(str(tmp_path))
    store.write("f/kept", b"1")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    for write in (store.write, store.create):
        with pytest.raises(StoreError, match=f"(?s){tmp_path} cannot be written to: .*{os.strerror(number)}.*{advice}"):
            write("f/new", b"2")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["kept"]
