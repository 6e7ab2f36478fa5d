"""A run with nothing to do and no server is answered from the manifests, without Prefect, and never wrongly."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.distill import NAMES
from flows.outcome import cached_result
from flows.request import validate_request
from storage.artifact import Artifact
from storage.open_store import open_store
from tests.support.stores import commit

SCORES = {"pretrain": None, "dpo": None, "shuffled": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A store in which every stage of smoke is done, each with one file of three rows that no stage has made."""
    folder = tmp_path_factory.mktemp("finished") / "store"
    for artifact in validate_request("smoke", str(folder)).plan.artifacts.values():
        artifact.add("report.html" if artifact.stage == "report" else "rows.parquet", b"whole", 3, {})
        commit(artifact)
        path = folder / artifact.path / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"scores": SCORES}}))
    return folder


@pytest.fixture
def store(finished, tmp_path) -> str:
    """A copy of it."""
    return str(shutil.copytree(finished, tmp_path / "store"))


def test_the_command_answers_without_prefect_and_torch(finished, tmp_path):
    code = (
        f"import sys; from flows.cli import cli; cli({['run', 'smoke', '--store', str(finished), '--json']}, "
        "standalone_mode=False); sys.exit(bool({'torch', 'prefect'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == ["recipe", "store", "seconds", "stages", "scores", "report"]
    assert [(row["stage"], row["state"], row["rows"]) for row in result["stages"]] == [(n, "cached", 3) for n in NAMES]
    report = result["stages"][-1]
    assert (result["scores"], result["report"]) == (SCORES, f"{report['uri']}/report.html")
    assert all(row.keys() == {"stage", "key", "state", "seconds", "rows", "uri"} for row in result["stages"])


@pytest.mark.parametrize(("loss", "told"), [(0.4, False), (108.0, True)])
def test_a_student_that_has_diverged_is_told_with_its_scores(store, caplog, loss, told):
    request = validate_request("smoke", store)
    manifest = Path(store, request.plan.artifacts["pretrain"].path, "manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"metrics": {"final_loss": loss}}))
    with caplog.at_level(logging.WARNING):
        assert cached_result(request) is not None
    assert ("the student has diverged, its last loss is 108" in caplog.text) is told


def test_only_the_chosen_stages_need_to_be_done(store):
    shutil.rmtree(Path(store, "report"))
    assert cached_result(validate_request("smoke", store)) is None
    result = cached_result(validate_request("smoke", store, only="tokens"))
    assert result is not None
    assert ([row["stage"] for row in result["stages"]], result["report"]) == (["tokens"], None)


@pytest.mark.parametrize("damage", ["content", "size", "missing", "manifest"])
def test_a_damaged_artifact_is_work_to_do(store, damage):
    artifact = validate_request("smoke", store).plan.artifacts["tokens"]
    file = Path(store, artifact.path, "rows.parquet")
    if damage == "missing":
        file.unlink()
    elif damage == "manifest":
        file.with_name("manifest.json").write_text("{")
    else:
        file.write_bytes(b"spoil" if damage == "content" else b"cut")
    assert cached_result(validate_request("smoke", store)) is None


def test_damage_after_the_plan_is_found_too(store):
    request = validate_request("smoke", store)
    assert request.plan.check("tokens").state == "done"
    Path(store, request.plan.artifacts["tokens"].path, "rows.parquet").write_bytes(b"spoil")
    assert cached_result(request) is None


def test_a_refresh_is_work_to_do(store):
    assert cached_result(validate_request("smoke", store, refresh=("report",))) is None


def test_what_a_kill_after_the_manifest_left_is_removed(store):
    artifact: Artifact = validate_request("smoke", store).plan.artifacts["pretrain"]
    open_store(store).write(f"{artifact.path}/_progress/files/rows.parquet.json", b"{}")
    assert cached_result(validate_request("smoke", store)) is not None
    assert sorted(open_store(store).list_files(artifact.path)) == ["manifest.json", "rows.parquet"]
