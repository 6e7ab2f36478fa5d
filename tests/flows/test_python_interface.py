"""`import lightgen`: run, load, look, sample; its notebook and its reference page."""

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import lightgen
from flows.cli import cli
from flows.load import load_recipe, override_lines
from tests.factories.finished_run import finished_run
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow(rank=14), pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def made():
    return finished_run()


@pytest.fixture(scope="module")
def run(made):
    return lightgen.load(made.recipe, store=made.store)


def test_importing_lightgen_loads_neither_torch_nor_prefect():
    code = "import sys, lightgen; sys.exit(bool({'torch', 'prefect', 'scipy', 'openai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_notebook_runs_ten_stages_and_shows_images(made):
    assert "10 of 10 stages done" in made.shown
    assert re.findall(r"size=(\d+x\d+)", made.shown) == ["576x288", "576x288", "576x144"]


def test_the_notebook_holds_no_output_of_a_machine():
    cells = json.loads((ROOT / "docs/lightgen.ipynb").read_text())["cells"]
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code"] == [[]] * 7


def test_the_reference_page_is_what_the_code_says():
    """If it fails: python docs/make_reference.py."""
    written = runpy.run_path(str(ROOT / "docs/make_reference.py"))["reference"]()
    assert (ROOT / "docs/reference.md").read_text() == written


def test_overrides_by_name_and_in_sections_are_one():
    both = {"pretrain.steps": 7, "pretrain": {"model": {"dropout": 0.25}}, "tokens.sizes": [48], "purpose": "élan: #1"}
    lines = ["pretrain.steps=7", "pretrain.model.dropout=0.25", "tokens.sizes=[48]", 'purpose="élan: #1"']
    assert override_lines(both) == lines
    recipe = load_recipe("smoke", override_lines(both))
    assert (recipe.pretrain.model.dropout, recipe.pretrain.batch_size) == (0.25, 16)
    assert recipe.purpose == "élan: #1"


def test_none_is_a_value_of_an_override():
    assert override_lines({"sampler": {"head_steps_last": None}}) == ["sampler.head_steps_last=null"]


def test_a_wrong_override_is_an_error_that_names_it():
    with pytest.raises(lightgen.UserError, match="Did you mean 'steps'"):
        lightgen.run("smoke", {"pretrain.stepz": 1})
    with pytest.raises(lightgen.UserError, match=r"pretrain\.steps is set to <object"):
        lightgen.load("smoke", {"pretrain.steps": object()})


def test_load_shows_what_is_finished(made, run):
    assert set(run.states.values()) == {"done"}
    assert run.scores == made.artifact("evaluation").manifest().metrics["scores"]
    assert run.report == made.artifact("report").uri_of("report.html")
    assert run.table("captions").num_rows == made.artifact("captions").manifest().counts["rows"]


def test_load_of_a_recipe_that_never_ran_is_an_error(made):
    with pytest.raises(lightgen.UserError, match=r"captions are missing \(.*differs from .* in seed: 9, there 0"):
        lightgen.load(made.recipe, {"seed": 9}, store=made.store)


def test_what_is_not_made_yet_is_an_error_with_its_reason(made):
    other = lightgen.load(made.recipe, {"dpo.steps": 3}, store=made.store)
    assert (other.states["pairs"], other.states["dpo"], other.scores, other.report) == ("done", "missing", {}, None)
    with pytest.raises(lightgen.UserError, match=r"dpo of tiny is missing .*in dpo.steps: 3, there 2"):
        other.artifact("dpo")
    assert other.student().model.info.sampler is None  # that of pre-training


def test_images_come_with_caption_and_row(run):
    chosen = run.images("evaluation", limit=5, student="dpo", category="counting")
    rows = run.table("evaluation").to_pylist()
    expected = [row for row in rows if (row["student"], row["category"]) == ("dpo", "counting")]
    assert [picture.details["id"] for picture in chosen] == [row["id"] for row in expected]
    assert [picture.caption for picture in chosen] == [row["caption"] for row in expected]
    assert {picture.image.size for picture in chosen} == {(48, 48)}


def test_pairs_give_winner_and_loser(run):
    names = [picture.details["column"] for picture in run.images("pairs", limit=3)]
    assert names == ["winner_image", "loser_image", "winner_image"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.images("dedup"), "dedup stores no images; synthesis, pairs, evaluation do"),
        (lambda run: run.images(studnt="dpo"), "have no 'studnt'; they have id, student"),
        (lambda run: run.table("dpo"), "dpo has no table ''; it has none"),
        (lambda run: run.table("captions", "nosuch"), "no table 'nosuch'; it has captions, dropped"),
        (lambda run: run.table("tokns"), "Did you mean 'tokens'"),
        (lambda run: run.student("tokens"), "tokens has no student; report, distil_head, average, dpo, pretrain have"),
    ],
)
def test_a_wrong_question_names_what_there_is(run, ask, message):
    with pytest.raises(lightgen.UserError, match=re.escape(message)):
        ask(run)


def test_student_samples_what_the_command_does(made, tmp_path):
    cli(
        ["sample", str(made.student), "a red circle", "--seed", "3", "--num-images", "2", "-o", str(tmp_path)],
        "lightgen",
        standalone_mode=False,
    )
    student = lightgen.Student.from_pretrained(made.student)
    images = student("a red circle", seed=3, num_images=2)
    for image, path in zip(images, sorted(tmp_path.iterdir()), strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(path)))
    assert np.array_equal(np.asarray(student(["a star", "a red circle"], seed=4)[1]), np.asarray(images[1]))


def test_words_that_a_scene_student_cannot_know_are_named(made, caplog):
    student = lightgen.Student.from_pretrained(made.student)
    student("a red circle")
    assert not caplog.messages
    student(["a red circle", "a photo of a cat"])
    (message,) = caplog.messages
    assert "not cat:" in message
    assert "'a photo of a cat'" in message


def test_student_inpaints_what_the_command_does(made, tmp_path):
    picture, white = Image.new("RGB", (48, 48), (200, 30, 40)), np.zeros((48, 48), bool)
    white[:20, :20] = True
    picture.save(tmp_path / "a.png")
    mask = Image.fromarray(white)
    mask.save(tmp_path / "mask.png")
    files = [str(tmp_path / name) for name in ("a.png", "mask.png", "out.png")]
    words = ["inpaint", str(made.student), *files[:2], "a star", "--seed", "5", "-o", files[2]]
    cli(words, "lightgen", standalone_mode=False)
    student = lightgen.Student.from_pretrained(made.student)
    result = student.inpaint(picture, mask, "a star", seed=5)
    assert np.array_equal(result, Image.open(tmp_path / "out.png"))
    assert np.array_equal(student.inpaint(np.asarray(picture), white, "a star", seed=5), result)
    assert not np.array_equal(student.inpaint(picture, mask, "a star", seed=6), result)
    with pytest.raises(lightgen.UserError, match="there is nothing to sample"):
        student.inpaint(picture, np.zeros((48, 48), bool), "a star")


def test_a_student_is_found_by_recipe_and_by_short_key(made, monkeypatch):
    """A recipe means its most finished student, which has the recipe's sampler."""
    monkeypatch.setenv("LIGHTGEN_STORE", made.store)
    key = made.artifact("dpo").key[:6]
    by_recipe, by_key = (lightgen.Student.from_pretrained(name) for name in (made.recipe, f"dpo/{key}"))
    assert (by_recipe.model.info.sampler is None, by_key.model.info.sampler is None) == (False, True)
    assert by_recipe.model.sampler.iterations == 4


def test_a_changed_recipe_gives_the_newest_student_of_its_name(made, tmp_path, caplog):
    changed = tmp_path / "tiny.yaml"
    changed.write_text(f"extends: {made.recipe}\nseed: 5\n")
    with caplog.at_level("INFO", "lightgen"):
        lightgen.Student.from_pretrained(changed, store=made.store)
    assert f"the newest of its name, report/{made.artifact('report').key[:8]}" in caplog.text


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nosuch", "nosuch holds no student: there is no such folder, and no such recipe"),
        (
            "captions/0",
            "captions holds no student; those of report, distil_head, average, dpo, pretrain do",
        ),
        ("dpo/zz", "dpo/zz names no artifacts"),
        ("demo", "demo has no student in"),
        ("docs", "docs holds no student"),
        ("README.md", "README.md holds no student: it is a file, not a folder"),
    ],
)
def test_what_is_no_checkpoint_is_an_error_that_says_so(made, monkeypatch, checkpoint, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(lightgen.UserError, match=re.escape(message)):
        lightgen.Student.from_pretrained(checkpoint, store=made.store)
