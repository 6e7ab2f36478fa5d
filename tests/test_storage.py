"""One contract suite for every kind of store, and what an artifact promises on top of it."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from storage.artifact import Artifact, DamagedArtifact
from storage.keys import artifact_key, canonical_json
from storage.manifest import Manifest
from storage.store import Store, StoreError
from storage.tables import IMAGE, about, schema, to_parquet


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def commit(artifact: Artifact) -> None:
    files = tuple(artifact.records().values())
    artifact.commit(
        Manifest(
            stage=artifact.stage,
            key=artifact.key,
            stage_version=1,
            config={},
            inputs={},
            files=files,
            counts={"rows": sum(file.rows for file in files)},
            timings={"seconds": 1.0},
            device_seconds=0.0,
            software={},
            host={},
            created_at="2026-01-01T00:00:00+00:00",
        )
    )


@pytest.fixture
def artifact(store):
    made = Artifact(store, "captions", "0123")
    made.add("a.bin", b"first", 2, {"dropped": 1})
    made.add("deep/b.bin", b"second", 3, {})
    commit(made)
    return made


def test_what_is_written_is_read_back_and_listed_with_its_size(store):
    store.write("x/y.bin", b"12345")
    assert (store.read("x/y.bin"), store.files("x"), store.exists("x/y.bin")) == (b"12345", {"y.bin": 5}, True)


def test_writing_again_replaces_the_bytes_and_changes_the_fingerprint(store):
    store.write("x.bin", b"old")
    before = store.fingerprint("x.bin")
    store.write("x.bin", b"new and longer")
    assert store.read("x.bin") == b"new and longer"
    assert store.fingerprint("x.bin") != before


def test_another_handle_sees_a_new_file_at_once(store):
    other = Store(store.uri)
    assert other.files("late") == {}
    store.write("late/file.bin", b"x")
    assert other.files("late") == {"file.bin": 1}


def test_removing_what_is_not_there_is_fine_and_removing_a_folder_takes_all_of_it(store):
    store.remove("nothing")
    store.write("gone/a", b"1")
    store.write("gone/b/c", b"2")
    store.remove("gone")
    assert store.files("gone") == {}


def test_folders_are_named_without_hidden_ones(store):
    store.write("stage/key1/a", b"1")
    store.write("stage/key2/a", b"1")
    store.write("stage/.hidden/a", b"1")
    assert store.folders("stage") == ["key1", "key2"]
    assert store.folders("none") == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../b"])
def test_a_path_that_leaves_the_store_is_refused(store, path):
    with pytest.raises(StoreError, match="leaves the store"):
        store.read(path)


def test_an_upload_holds_the_bytes_of_the_local_file(store, tmp_path):
    source = tmp_path / "big"
    source.write_bytes(os.urandom(3 << 20))
    store.upload("copy", source)
    assert store.read("copy") == source.read_bytes()


def test_an_unknown_protocol_is_an_error_that_says_what_is_wanted():
    with pytest.raises(StoreError, match="fsspec URL such as"):
        Store("nosuch://bucket")


def test_a_failed_write_leaves_the_old_bytes_and_no_torso(tmp_path):
    store = Store(str(tmp_path))
    store.write("x.bin", b"old")
    with pytest.raises(RuntimeError), store._whole_file("x.bin") as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert store.read("x.bin") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from storage.store import Store\n"
        f"with Store({str(tmp_path)!r}).lock('k'):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with Store(str(tmp_path)).lock("k"):
        pass


def test_a_finished_artifact_is_done_and_keeps_only_its_files(artifact):
    assert artifact.check().state == "done"
    assert sorted(artifact.store.files(artifact.path)) == ["a.bin", "deep/b.bin", "manifest.json"]
    assert artifact.manifest().counts == {"rows": 5}


def test_a_place_with_nothing_is_missing_and_one_with_finished_files_is_partial(store):
    place = Artifact(store, "tokens", "abc")
    assert place.check().state == "missing"
    place.add("part.bin", b"1", 1, {})
    assert place.check().state == "partial"


def test_a_deleted_file_a_cut_file_and_a_changed_byte_are_damage(artifact):
    assert artifact.check().state == "done"
    artifact.store.write(f"{artifact.path}/a.bin", b"firsT")
    assert "content of a.bin" in artifact.check().why
    artifact.store.write(f"{artifact.path}/a.bin", b"fir")
    assert "has 3 bytes, not 5" in artifact.check().why
    artifact.store.remove(f"{artifact.path}/a.bin")
    assert artifact.check() == type(artifact.check())("damaged", "a.bin is missing")


def test_a_reopened_artifact_keeps_its_whole_files_only(artifact):
    artifact.store.write(f"{artifact.path}/a.bin", b"wrong")
    artifact.reopen()
    assert list(artifact.records()) == ["deep/b.bin"]
    assert artifact.check().state == "partial"
    artifact.add("a.bin", b"first", 2, {"dropped": 1})
    commit(artifact)
    assert artifact.check().state == "done"


def test_a_manifest_that_is_none_is_damage_and_reopening_removes_it(artifact):
    artifact.store.write(f"{artifact.path}/manifest.json", b'{"stage": 1')
    assert artifact.check().state == "damaged"
    artifact.reopen()
    assert artifact.check().state == "missing"


def test_what_a_killed_write_left_is_swept_away_by_the_commit(tmp_path):
    artifact = Artifact(Store(str(tmp_path)), "s", "k")
    artifact.add("a", b"1", 1, {})
    (tmp_path / "s/k/a.1234.partial").write_bytes(b"torso")
    commit(artifact)
    assert sorted(path.name for path in (tmp_path / "s/k").iterdir()) == ["a", "manifest.json"]


def test_reading_an_unfinished_artifact_says_that_it_was_never_finished(store):
    with pytest.raises(DamagedArtifact, match="never finished"):
        Artifact(store, "dedup", "k").manifest()


def test_a_verified_file_is_not_hashed_again_until_it_changes(artifact, monkeypatch):
    assert artifact.check().state == "done"
    monkeypatch.setattr(Artifact, "sha256", lambda self, name: pytest.fail(f"hashed {name} again"))
    assert artifact.check().state == "done"
    with pytest.raises(pytest.fail.Exception):
        artifact.check(rehash=True)


def test_a_key_depends_on_each_of_its_four_parts_and_not_on_their_order():
    base = artifact_key("dedup", 1, {"a": 1, "b": 2.5}, {"captions": "x", "synthesis": "y"})
    assert base == artifact_key("dedup", 1, {"b": 2.5, "a": 1}, {"synthesis": "y", "captions": "x"})
    others = {
        artifact_key("tokens", 1, {"a": 1, "b": 2.5}, {"captions": "x", "synthesis": "y"}),
        artifact_key("dedup", 2, {"a": 1, "b": 2.5}, {"captions": "x", "synthesis": "y"}),
        artifact_key("dedup", 1, {"a": 2, "b": 2.5}, {"captions": "x", "synthesis": "y"}),
        artifact_key("dedup", 1, {"a": 1, "b": 2.5}, {"captions": "z", "synthesis": "y"}),
    }
    assert len(others | {base}) == 5


def test_a_key_is_the_same_on_every_machine():
    assert artifact_key("captions", 1, {"count": 10, "share": 0.1}, {}) == "1b6e39f124f2b50a1e28"


def test_canonical_json_refuses_what_has_no_one_form():
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
    with pytest.raises(TypeError):
        canonical_json({1, 2})


def test_equal_tables_become_equal_bytes_and_say_what_their_columns_mean():
    kinds = {"id": pa.int64(), "image": IMAGE, "vector": pa.list_(pa.float32(), 2)}
    columns = {"id": [1], "image": [{"bytes": b"x", "path": "1.png"}], "vector": [[1.0, 2.0]]}
    table = pa.table(columns, schema(kinds, {"width": 2}))
    assert to_parquet(table) == to_parquet(pa.table(columns, schema(kinds, {"width": 2})))
    assert about(table.schema) == {"width": 2}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}


def test_a_local_store_gives_the_file_itself_and_a_remote_one_a_copy(artifact, tmp_path):
    path = artifact.local("deep/b.bin", tmp_path / "scratch")
    assert Path(path).read_bytes() == b"second"
    assert path.is_relative_to(tmp_path / "scratch") == (artifact.store.local_path("x") is None)
