"""`lightgen table` of runs in a store: scores of the evaluation, parameters, images, device-days."""

import json
import shutil

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands.ledger import ledger_of_artifact
from flows.commands.table_rows import FORM, SCENE_MARK
from flows.errors import UserError
from tasks.config.settings import Settings
from tests.factories.finished_run import finished_run

pytestmark = [pytest.mark.slow(rank=17), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def made():
    return finished_run()


def rows_of(name: str, store: str) -> list[dict]:
    done = CliRunner().invoke(cli, ["table", "peers", name, "--store", store, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["not_comparable"]


def test_a_recipe_has_a_row_for_each_of_its_students(made):
    pretrain, dpo = rows_of(made.recipe, made.store)
    assert [row["model"] for row in (pretrain, dpo)] == [f"{made.recipe}, without tuning", f"{made.recipe}, tuned"]
    assert {row["mark"] for row in (pretrain, dpo)} == {SCENE_MARK}
    scores = made.artifact("evaluation").manifest().metrics["scores"]
    assert (pretrain["scores"], dpo["scores"]) == (scores["pretrain"], scores["dpo"])


def test_a_row_has_the_size_and_the_cost_of_its_student(made):
    from lightgen_core.model.save import load_student

    pretrain, dpo = rows_of(made.recipe, made.store)
    student, _ = load_student(made.student)
    assert dpo["params"] == sum(weight.numel() for weight in student.parameters())
    assert dpo["images"] == made.artifact("dedup").manifest().counts["kept"]
    assert (dpo["px"], dpo["judge"], dpo["device"]) == (48, "the scene detector", "cpu")
    ledger = ledger_of_artifact(f"dpo/{made.artifact('dpo').key}", made.store, Settings())
    assert dpo["device_days"] == pytest.approx(ledger["student"]["device_seconds"] / 86400, rel=1e-12)
    assert 0 < pretrain["device_days"] < dpo["device_days"]


def test_a_key_names_one_student(made):
    (row,) = rows_of(f"pretrain/{made.artifact('pretrain').key[:8]}", made.store)
    assert row["scores"] == made.artifact("evaluation").manifest().metrics["scores"]["pretrain"]


def test_a_run_on_geneval_stands_with_the_published_rows(made, tmp_path):
    """The same run, whose evaluation says that it was of GenEval's form."""
    shutil.copytree(made.store, tmp_path / "store")
    (path,) = (tmp_path / "store/evaluation").glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["config"]["evaluation"] |= {"benchmark": "geneval", "prompts": None}
    manifest["metrics"]["judge"] = "GenEval-HF"
    path.write_text(json.dumps(manifest))
    arguments = ["table", "2", f"dpo/{made.artifact('dpo').key}", "--store", str(tmp_path / "store"), "--json"]
    result = json.loads(CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout)
    (row,) = [row for row in result["rows"] if row["kind"] == "measured"]
    assert (result["not_comparable"], row["judge"]) == ([], "GenEval-HF")
    assert row["notes"] == [FORM, "images of 48 px, not 512", "12 of 553 prompts"]


def test_a_folder_outside_a_store_needs_an_evaluation(made, tmp_path):
    shutil.copytree(made.student, tmp_path / "out")
    with pytest.raises(UserError, match="without an evaluation: score it with `lightgen eval"):
        rows_of(str(tmp_path / "out"), made.store)
