"""Promises of an artifact on top of any store: keys, records, the manifest, damage noticed and mended."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from storage.artifact import Artifact, CorruptArtifact
from storage.keys import artifact_key, canonical_json
from storage.manifest import Manifest
from storage.open_store import open_store
from storage.tables import IMAGE, layout_metadata, schema, to_parquet
from tests.support.paths import GOLDEN
from tests.support.stores import commit

pytest_plugins = ["tests.support.every_store"]


@pytest.fixture
def artifact(store):
    made = Artifact(store, "captions", "0123")
    made.add("a.bin", b"first", 2, {"dropped": 1})
    made.add("deep/b.bin", b"second", 3, {})
    assert commit(made)
    return made


def test_a_finished_artifact_is_done_and_keeps_only_its_files(artifact):
    assert artifact.check().state == "done"
    assert sorted(artifact.store.files(artifact.path)) == ["a.bin", "deep/b.bin", "manifest.json"]
    assert artifact.manifest().counts == {"rows": 5}


def test_an_empty_artifact_is_missing_and_an_unfinished_partial(store):
    place = Artifact(store, "tokens", "abc")
    assert place.check().state == "missing"
    place.add("part.bin", b"1", 1, {})
    assert (place.check().state, list(Artifact(store, "tokens", "abc").records())) == ("partial", ["part.bin"])


def test_a_deleted_file_a_cut_file_and_a_changed_byte_are_damage(artifact):
    assert artifact.check().state == "done"
    artifact.store.write(f"{artifact.path}/a.bin", b"firsT")
    assert "content of a.bin" in artifact.check().reason
    artifact.store.write(f"{artifact.path}/a.bin", b"fir")
    assert "has 3 bytes, not 5" in artifact.check().reason
    artifact.store.remove(f"{artifact.path}/a.bin")
    assert artifact.check() == type(artifact.check())("damaged", "a.bin is missing")


@pytest.mark.parametrize("damage", [b"wrong", b"cut", None])
def test_a_reopened_artifact_keeps_its_whole_files(artifact, damage):
    """The rest can be added again."""
    artifact.store.remove(f"{artifact.path}/a.bin")
    if damage is not None:
        artifact.store.write(f"{artifact.path}/a.bin", damage)
    artifact.uncommit()
    assert list(artifact.records()) == ["deep/b.bin"]
    assert artifact.check().state == "partial"
    artifact.add("a.bin", b"first", 2, {"dropped": 1})
    assert commit(artifact)
    fresh = Artifact(artifact.store, "captions", "0123")
    assert (fresh.check(rehash=True).state, fresh.open("a.bin").read()) == ("done", b"first")
    assert len(artifact.store.files(artifact.path)) == 3


def test_reopening_what_is_whole_or_unfinished_changes_nothing(artifact):
    artifact.uncommit()
    assert artifact.check().state == "done"
    other = Artifact(artifact.store, "captions", "4567")
    other.add("a", b"1", 1, {})
    other.uncommit()
    assert other.check().state == "partial"


def test_a_broken_manifest_is_damage_and_reopening_removes_it(artifact):
    artifact.store.write(f"{artifact.path}/manifest.json", b'{"stage": 1')
    assert artifact.check().state == "damaged"
    artifact.uncommit()
    assert artifact.check().state == "missing"


def test_a_removed_artifact_leaves_nothing(artifact):
    artifact.remove()
    assert (artifact.store.files(""), artifact.check().state) == ({}, "missing")


def test_an_unfinished_file_that_changes_counts_with_new_bytes(store):
    """A nondeterministic run writes other bytes when it goes on."""
    killed = Artifact(store, "report", "k")
    killed.add("page.html", b"at noon", 0, {})
    again = Artifact(store, "report", "k")
    again.add("page.html", b"at one", 0, {})
    assert commit(again)
    fresh = Artifact(store, "report", "k")
    assert (fresh.check(rehash=True).state, fresh.open("page.html").read()) == ("done", b"at one")
    assert store.read(fresh.uri_of("page.html").removeprefix(f"{store.uri}/")) == b"at one"
    assert len(store.files(fresh.path)) == 2


def test_reading_an_unfinished_artifact_is_an_error_that_says_so(store):
    with pytest.raises(CorruptArtifact, match="never finished"):
        Artifact(store, "dedup", "k").manifest()


def test_a_commit_that_lacks_a_recorded_file_is_refused(store):
    place = Artifact(store, "dedup", "k")
    place.add("a", b"1", 1, {})
    store.remove(f"{place.path}/a")
    with pytest.raises(CorruptArtifact, match="is gone or changed"):
        commit(place)
    assert not place.is_committed()


def test_a_verified_file_is_not_hashed_again_until_it_changes(artifact, monkeypatch):
    assert artifact.check().state == "done"
    monkeypatch.setattr("storage.integrity._sha256", lambda store, path: pytest.fail(f"hashed {path} again"))
    assert Artifact(artifact.store, "captions", "0123").check().state == "done"
    with pytest.raises(pytest.fail.Exception):
        artifact.check(rehash=True)


def test_finished_files_of_an_interrupted_run_are_hashed_once(tmp_path, monkeypatch):
    """It does not matter how often the run goes on."""
    artifact = Artifact(open_store(str(tmp_path)), "tokens", "abc")
    for name in "abc":
        artifact.add(name, name.encode(), 1, {})
    (tmp_path / "tokens/abc/b").write_bytes(b"X")
    assert artifact.intact_files() == {"a", "c"}
    hashed = []
    monkeypatch.setattr("storage.integrity._sha256", lambda store, path: hashed.append(path))
    assert (artifact.intact_files(), hashed) == ({"a", "c"}, ["tokens/abc/b"])


def test_rehashing_detects_a_byte_that_changed_without_a_trace(tmp_path):
    """The file is then written again."""
    artifact = Artifact(open_store(str(tmp_path)), "captions", "0123")
    artifact.add("a.bin", b"first", 2, {})
    commit(artifact)
    assert artifact.check().state == "done"
    path = tmp_path / artifact.path / "a.bin"
    before = path.stat()
    path.write_bytes(b"firsT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (artifact.check().state, artifact.check(rehash=True).state) == ("done", "damaged")
    assert artifact.check().state == "damaged"
    artifact.uncommit()
    assert artifact.check().state == "missing"


def test_a_local_store_gives_its_file_and_a_remote_one_a_copy(artifact, tmp_path):
    path = artifact.local("deep/b.bin", tmp_path / "scratch")
    assert Path(path).read_bytes() == b"second"
    assert path.is_relative_to(tmp_path / "scratch") == (artifact.store.local_path("x") is None)


def test_copies_of_one_artifact_lie_in_one_folder(artifact, tmp_path):
    """Those of the same key with other bytes lie elsewhere."""
    first = [artifact.local(name, tmp_path / "scratch") for name in artifact.names()]
    artifact.remove()
    artifact.add("a.bin", b"First", 2, {})
    commit(artifact)
    assert artifact.local("a.bin", tmp_path / "scratch").read_bytes() == b"First"
    assert first[1].parent.parent == first[0].parent


def test_copies_unused_for_thirty_days_go_when_others_come(empty, tmp_path):
    store, scratch = empty("memory", tmp_path), tmp_path / "scratch"
    copies = []
    for key in ("old", "recent", "new"):
        artifact = Artifact(store, "tokens", key)
        artifact.add("a", key.encode(), 0, {})
        commit(artifact)
        copies.append(artifact.local("a", scratch))
        for copy, days in zip(copies, (31, 29), strict=False):
            if copy.exists():
                os.utime(copy.parent, (time.time() - days * 86400,) * 2)
    assert [copy.exists() for copy in copies] == [False, True, True]


def test_an_incomplete_copy_is_refused_and_leaves_nothing(artifact, tmp_path):
    if artifact.store.supports_locking:
        pytest.skip("a local store makes no copies")
    artifact.store.write(f"{artifact.path}/a.bin", b"firsT")
    with pytest.raises(CorruptArtifact, match="is gone, or did not come as it was written"):
        artifact.local("a.bin", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_many_threads_may_copy_one_file_at_once(artifact, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: artifact.local("a.bin", tmp_path / "scratch").read_bytes(), range(8)))
    assert found == {b"first"}


def test_an_artifact_of_the_first_format_still_opens(store):
    text = (GOLDEN / "first_manifest.json").read_bytes()
    store.write("captions/k/a.bin", b"first")
    for name in ("b.bin", "b~1.bin"):  # only stores without locks keep a file under another name
        store.write(f"captions/k/{name}", b"second")
    store.write("captions/k/manifest.json", text)
    artifact = Artifact(store, "captions", "k")
    assert (artifact.check().state, artifact.open("b.bin").read()) == ("done", b"second")
    first = json.loads(text)
    manifest = Manifest.model_validate_json(text)
    assert (manifest.metrics, manifest.files[1].path) == ({"seconds_of_sound": 3}, "b~1.bin")
    first["metrics"] = first.pop("figures")
    first["files"][1]["stored_as"] = first["files"][1].pop("place")
    assert json.loads(manifest.model_dump_json()) == first


def test_a_key_depends_on_its_four_parts_and_not_on_their_order():
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


def test_equal_tables_become_equal_bytes_and_describe_columns():
    kinds = {"id": pa.int64(), "image": IMAGE, "vector": pa.list_(pa.float32(), 2)}
    columns = {"id": [1], "image": [{"bytes": b"x", "path": "1.png"}], "vector": [[1.0, 2.0]]}
    table = pa.table(columns, schema(kinds, {"width": 2}))
    assert to_parquet(table) == to_parquet(pa.table(columns, schema(kinds, {"width": 2})))
    assert layout_metadata(table.schema) == {"width": 2}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
