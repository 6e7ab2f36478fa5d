"""`lightgen table`: published rows, results of `lightgen eval` beside them, other benchmarks apart, commands."""

import json
import runpy
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands.evaluate import evaluate
from flows.commands.table_command import find_table
from flows.commands.table_markdown import NOT_FOUND, eval_command
from flows.commands.table_rows import SCENE_MARK
from flows.errors import UserError
from lightgen_core.evaluation.published import published
from tests.factories.tiny_geneval import save_tiny_detector
from tests.factories.tiny_pipelines import save_sdxl
from tests.support.paths import ROOT

MOUSE = {"tag": "single_object", "include": [{"class": "computer mouse", "count": 1}], "prompt": "a computer mouse"}


def lightgen(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a pipeline, a recipe of a tiny judge, and one prompt, which that judge finds right."""
    folder = tmp_path_factory.mktemp("tables")
    save_sdxl(folder / "pipeline")
    judge = {"detector": save_tiny_detector(folder / "detector"), "color_model": "zoo:clip"}
    (folder / "judge.yaml").write_text(json.dumps({"evaluation": judge}))
    (folder / "evaluation_metadata.jsonl").write_text(json.dumps(MOUSE))
    return folder


@pytest.fixture(scope="module")
def scored(home) -> str:
    options = {"recipe": str(home / "judge.yaml"), "metadata": home / "evaluation_metadata.jsonl"}
    evaluate(f"diffusers:{home / 'pipeline'}", images=2, steps=2, output=home / "scored", **options)
    return str(home / "scored")


@pytest.fixture(scope="module")
def scenes(home) -> str:
    evaluate(f"diffusers:{home / 'pipeline'}", images=1, per_category=1, steps=1, output=home / "scenes")
    return str(home / "scenes")


def test_a_result_of_eval_stands_beside_the_published_rows(home, scored):
    lines = lightgen("table", "2", scored).splitlines()
    head = cells(next(line for line in lines if line.startswith("| model")))
    row = dict(zip(head, cells(next(line for line in lines if "| measured" in line)), strict=True))
    assert row["model"] == f"diffusers:{home / 'pipeline'}"
    assert (row["kind"], row["px"], row["steps"], row["prompts"]) == ("measured, GenEval-HF", "48", "2", "as they are")
    assert (row["single"], row["overall"]) == ("1.00 [0.21, 1.00]", "1.00 [0.21, 1.00]")  # as scores.md has them
    assert row["two"] == row["params"] == row["source"] == ""
    assert any(line.endswith("images of 48 px, not 512; 1 of 553 prompts") for line in lines)
    assert sum("| published |" in line for line in lines) == len(find_table("2").rows)


def test_a_result_stands_below_the_published_row_of_its_model(scored, tmp_path):
    result = json.loads((Path(scored) / "scores.json").read_text())
    source = published().models["sdxl"].run.source
    (tmp_path / "scores.json").write_text(json.dumps(result | {"model": source}))
    rows = json.loads(lightgen("table", "2", str(tmp_path), "--json"))["rows"]
    assert [(row["model"], row["kind"]) for row in rows[2:4]] == [
        ("Stable Diffusion XL", "published"),
        (source, "measured"),
    ]
    assert rows[3]["scores"]["overall"] == result["scores"]["overall"]
    assert rows[2]["sources"] == [published().sources["lightgen-2"].model_dump()]


def test_scene_scores_stand_apart_with_their_mark(scored, scenes):
    text = lightgen("table", "2", scored, scenes)
    above, _, below = text.partition("### Scene world: not comparable")
    assert SCENE_MARK not in above and above.count("| measured") == 1
    assert below.count(f"({SCENE_MARK}) | measured, the scene detector") == 1
    result = json.loads(lightgen("table", "2", scenes, "--json"))
    assert {row["benchmark"] for row in result["rows"]} == {"geneval"}
    assert [row["mark"] for row in result["not_comparable"]] == [SCENE_MARK]


def test_a_result_of_another_benchmark_is_refused(scored, tmp_path):
    result = json.loads((Path(scored) / "scores.json").read_text())
    (tmp_path / "scores.json").write_text(json.dumps(result | {"benchmark": "dpg"}))
    with pytest.raises(UserError, match="was scored by dpg, and the rows of this table by geneval"):
        lightgen("table", "2", str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("evaluation.json", "{}", "an unfinished one; the command that began it"),
        ("scores.json", "{", "is damaged"),
        ("scores.json", '{"model": "m"}', "it lacks benchmark, judge, prompts, scores"),
    ],
)
def test_a_folder_without_whole_scores_is_refused(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        lightgen("table", "1", str(tmp_path))


def test_the_document_s_tables_are_what_the_command_prints():
    """If it fails: python docs/make_tables.py."""
    page = (ROOT / "docs/tables.md").read_text()
    assert page == runpy.run_path(str(ROOT / "docs/make_tables.py"))["tables"]()
    for name in published().tables:
        assert f"`lightgen table {name}`\n\n{lightgen('table', name)}\n" in page
    assert f"```\n{lightgen('table', '3', '--commands')}```\n" in page


def test_a_number_that_no_source_gives_is_not_found():
    lines = lightgen("table", "3").splitlines()
    chameleon = next(line for line in lines if line.startswith("| Chameleon"))
    assert cells(chameleon)[-8:] == [NOT_FOUND] * 6 + ["0.39", "[1]"]


def test_the_line_that_scores_a_peer_runs(home, monkeypatch):
    """Its own words, with a pipeline and a judge that fit a test in place of the hub's."""
    monkeypatch.chdir(home)
    line = next(line for line in lightgen("table", "2", "--commands").splitlines() if "stable-diffusion-xl" in line)
    words = shlex.split(line)
    assert words == eval_command("sdxl", find_table("2"))
    assert words[2] == "diffusers:stabilityai/stable-diffusion-xl-base-1.0" and "--size" in words
    words[2] = f"diffusers:{home / 'pipeline'}"
    for option, value in (("--steps", "2"), ("--size", "32"), ("-o", "peer"), ("--images", "2")):
        words[words.index(option) + 1] = value
    lightgen(*words[1:], "--recipe", "judge.yaml", "--json")
    (row,) = [row for row in json.loads(lightgen("table", "2", "peer", "--json"))["rows"] if row["kind"] == "measured"]
    assert (row["px"], row["steps"], row["scores"]["overall"]["n"]) == (32, 2, 2)


def test_models_that_cannot_be_run_say_so():
    text = lightgen("table", "3", "--commands")
    for name in ("LlamaGen", "Chameleon", "SEED-X", "Show-o"):
        assert f"# {name}: published only; no pipeline of diffusers" in text
    runnable = [line.split()[2] for line in text.splitlines() if line.startswith("lightgen eval")]
    assert len(runnable) == 6 and runnable[3] == "endpoint:dall-e-3"
    assert not [line for line in text.splitlines() if "--size" in line]  # each at the size of its own pipeline


def test_tables_are_listed_and_an_unknown_one_is_refused():
    assert [line.split()[0] for line in lightgen("table").splitlines()] == list(published().tables)
    with pytest.raises(UserError, match=r"there is no table 'peer'; .* Did you mean 'peers'"):
        lightgen("table", "peer")


def test_the_file_holds_what_is_printed(tmp_path):
    path = tmp_path / "table.md"
    assert lightgen("table", "1", "-o", str(path)) == ""
    assert path.read_text() == lightgen("table", "1")


def test_another_size_is_another_evaluation(home, scored):
    options = {"recipe": str(home / "judge.yaml"), "metadata": home / "evaluation_metadata.jsonl"}
    with pytest.raises(UserError, match="size differ"):
        evaluate(f"diffusers:{home / 'pipeline'}", images=2, steps=2, size=32, output=Path(scored), **options)


def test_a_students_images_have_the_size_of_its_training(home):
    with pytest.raises(UserError, match="--size goes with diffusers: and endpoint:"):
        evaluate(str(home), size=64)
    with pytest.raises(UserError, match="take no --steps, --cfg or --size"):
        evaluate(f"images:{home}", size=64)
