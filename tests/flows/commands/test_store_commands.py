"""`lightgen store`: what it deletes and what it leaves alone, without a stage's work."""

import contextlib
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from flows.request import validate_request
from flows.run import _run
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context.scratch import shared_store_lock, try_exclusive_store_lock


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTGEN_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    return open_store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def begun(store: Store, stage: str, key: str) -> Artifact:
    artifact = Artifact(store, stage, key)
    artifact.add("part.parquet", b"rows", 1, {})
    return artifact


def made(store: Store, stage: str, key: str) -> Artifact:
    artifact = begun(store, stage, key)
    told = {"config": {}, "inputs": {}, "timings": {"seconds": 1.0}, "device_seconds": 0, "software": {}, "host": {}}
    files = tuple(artifact.records().values())
    rows = {"rows": 1}
    assert artifact.commit(
        Manifest(stage=stage, key=key, stage_version=1, files=files, counts=rows, created_at="2026-01-01", **told)
    )
    return artifact


def gc(store: Store, *options: str) -> str:
    done = CliRunner().invoke(cli, ["store", "gc", "--keep", "smoke", "--store", store.uri, *options])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_gc_deletes_what_no_kept_recipe_needs_and_nothing_else(store):
    needed = made(store, "captions", plan(load_recipe("smoke"), store).artifacts["captions"].key)
    other = made(store, "captions", "0" * 20)
    assert f"would delete {other.path}" in gc(store) and other.is_committed()
    assert f"deleted {other.path}" in gc(store, "--delete")
    assert store.folders("captions") == [needed.key]


def test_gc_keeps_what_a_recipe_with_overrides_needs(store):
    recipe = load_recipe("smoke", ["captions.count=9"])
    needed = made(store, "captions", plan(recipe, store).artifacts["captions"].key)
    gc(store, "--set", "captions.count=9", "--delete")
    assert needed.is_committed()


def test_gc_deletes_nothing_while_this_machine_runs_a_recipe(store):
    artifact = begun(store, "captions", "0" * 20)
    with shared_store_lock(store, Settings()), shared_store_lock(store, Settings()):
        with pytest.raises(UserError, match=r"a run of this machine is at work in .*nothing was deleted"):
            gc(store, "--delete", "--unfinished")
        assert f"would delete {artifact.path}" in gc(store, "--unfinished")
    assert list(artifact.records()) == ["part.parquet"]
    assert f"deleted {artifact.path}" in gc(store, "--delete", "--unfinished")
    assert store.folders("captions") == []


def test_a_run_holds_its_store_from_its_first_stage_to_its_last(monkeypatch, tmp_path):
    store, held = open_store(str(tmp_path / "store")), []
    monkeypatch.setattr("flows.run.track_crashes", lambda: None)
    monkeypatch.setattr("flows.run.cancel_if_requested", contextlib.nullcontext)
    monkeypatch.setattr(
        "flows.run.Runner", lambda request: SimpleNamespace(rows=[], run=lambda stage: held.append(alone(store)))
    )
    monkeypatch.setattr("flows.pages.run_page.show_run_page", lambda *given: None)
    _run(validate_request("smoke", store.uri), 0.0)
    assert (held, alone(store)) == ([False] * 10, True)


def alone(store: Store) -> bool:
    with try_exclusive_store_lock(store, Settings()) as held:
        return held


def test_gc_of_a_remote_store_leaves_unfinished_work_alone(tmp_path):
    """It may be another machine's."""
    store = open_store(f"memory://{tmp_path.name}")
    artifact = begun(store, "captions", "0" * 20)
    assert f"left alone, unfinished: {artifact.path}" in gc(store, "--delete")
    assert list(artifact.records()) == ["part.parquet"]


def test_ls_hashes_nothing(store, monkeypatch):
    artifact = made(store, "captions", "0" * 20)
    monkeypatch.setattr("storage.integrity._sha256", lambda *given: pytest.fail("a file was hashed"))
    done = CliRunner().invoke(cli, ["store", "ls", "--store", store.uri, "--json"])
    (row,) = json.loads(done.stdout)["artifacts"]
    assert (row["stage"], row["key"], row["state"], row["rows"]) == ("captions", artifact.key, "done", 1)
