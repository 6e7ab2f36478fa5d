"""`lightgen eval`: any student or pipeline on a benchmark, on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

from flows.commands.evaluate import evaluate
from flows.errors import USER_ERRORS, UserError
from tests.factories.tiny_geneval import save_tiny_detector
from tests.factories.tiny_pipelines import clip_tokenizer, save_sd_that_flags_everything, save_sdxl

CATEGORIES = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> str:
    return f"diffusers:{save_sdxl(tmp_path_factory.mktemp('pipeline'))}"


def recipe_with_local_judge(folder: Path) -> str:
    path = folder / "judge.yaml"
    judge = {"detector": save_tiny_detector(folder / "detector"), "color_model": "zoo:clip"}
    path.write_text(json.dumps({"evaluation": judge}))
    return str(path)


def lightgen(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "flows", *arguments], capture_output=True, text=True, timeout=300)


def test_scores_of_a_pipeline_on_the_scene_world_are_one_json(pipeline):
    done = lightgen("eval", pipeline, "--images", "1", "--per-category", "1", "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["benchmark"], result["judge"]) == (pipeline, "scene", "the scene detector")
    assert list(result["scores"]) == ["overall", *CATEGORIES]
    assert all(score.keys() == {"value", "low", "high", "n"} for score in result["scores"].values())
    assert (result["scores"]["overall"]["value"], result["scores"]["overall"]["n"]) == (0, 6)
    assert "6 of 6 images" in done.stderr


def test_images_are_kept_as_geneval_s_own_scripts_read_them(pipeline, tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    rows = [
        {"tag": "single_object", "include": [{"class": "computer mouse", "count": 1}], "prompt": "a computer mouse"},
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    result = evaluate(
        pipeline, recipe=recipe_with_local_judge(tmp_path), metadata=path, images=2, steps=2, output=tmp_path / "out"
    )
    assert (result["benchmark"], result["judge"]) == ("geneval", "GenEval-HF")
    assert result["scores"]["single_object"]["value"] == 0.5  # the detector sees mice, and nothing else
    for number, row in enumerate(rows):
        folder = tmp_path / "out" / f"{number:05d}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == {**row, "exclude": []}
        images = [Image.open(folder / "samples" / f"{image:04d}.png") for image in range(2)]
        assert [image.size for image in images] == [(48, 48)] * 2
        assert not np.array_equal(*map(np.asarray, images))
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [verdict["correct"] for verdict in verdicts] == [True, True, False, False]


def test_a_pipelines_image_depends_on_caption_and_seed_alone(pipeline, tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    evaluate(pipeline, images=1, per_category=1, steps=2, output=few)
    evaluate(pipeline, images=2, per_category=1, steps=2, output=many)
    for folder in sorted(few.glob("0*")):
        one, other = (np.asarray(Image.open(out / folder.name / "samples" / "0000.png"), int) for out in (few, many))
        assert np.abs(one - other).max() <= 1  # the float noise of another batch


def metadata(folder: Path) -> Path:
    """One prompt, which the tiny detector finds right whatever the image."""
    path = folder / "evaluation_metadata.jsonl"
    mouse = {"class": "computer mouse", "count": 1}
    path.write_text(json.dumps({"tag": "single_object", "include": [mouse], "prompt": "a computer mouse"}))
    return path


def test_an_image_the_safety_checker_withholds_counts_as_wrong(tmp_path):
    model, judge = save_sd_that_flags_everything(tmp_path / "pipeline"), recipe_with_local_judge(tmp_path)
    out = tmp_path / "out"
    result = evaluate(f"diffusers:{model}", recipe=judge, metadata=metadata(tmp_path), images=2, steps=1, output=out)
    assert (result["scores"]["overall"]["value"], result["scores"]["overall"]["n"]) == (0, 2)
    verdicts = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [verdict["reason"] for verdict in verdicts] == ["flagged by the safety checker"] * 2
    assert not list(out.rglob("*.png"))


def test_an_undrawable_prompt_ends_the_evaluation_and_says_why(tmp_path):
    """Otherwise a device without memory would score 0."""
    folder, tokenizer = save_sdxl(tmp_path / "pipeline"), clip_tokenizer()
    tokenizer.add_tokens([*(f"<{number}>" for number in range(20)), "mouse"])  # the last is beyond the embeddings
    tokenizer.save_pretrained(folder / "tokenizer")
    model, judge = f"diffusers:{folder}", recipe_with_local_judge(tmp_path)
    with pytest.raises(UserError, match="no image of 'a computer mouse': the teacher failed on the prompt: Index"):
        evaluate(model, recipe=judge, metadata=metadata(tmp_path), images=1, steps=1)


def test_a_pipeline_that_draws_no_text_is_the_caller_s_mistake(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, **blocks)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="DDPMPipeline takes no prompt"):
        evaluate(f"diffusers:{tmp_path}")


def test_metadata_do_not_go_with_the_scene_world(pipeline, tmp_path):
    with pytest.raises(UserError, match="--metadata goes with --benchmark geneval"):
        evaluate(pipeline, benchmark="scene", metadata=tmp_path)


def test_a_recipe_that_nobody_judges_needs_another_benchmark(pipeline, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"evaluation": {"benchmark": "prompts"}}))
    with pytest.raises(UserError, match="give --benchmark geneval or scene"):
        evaluate(pipeline, recipe=str(path))


@pytest.mark.parametrize("model", ["/no/such/folder", "diffusers:/no/such/folder"])
def test_a_model_that_is_not_there_is_the_caller_s_mistake(model):
    with pytest.raises(USER_ERRORS, match="/no/such/folder"):
        evaluate(model)


def test_a_judge_that_is_not_there_is_named_with_what_to_do(pipeline, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"evaluation": {"benchmark": "geneval", "detector": str(tmp_path)}}))
    with pytest.raises(UserError, match=r"give a --recipe with evaluation\.detector"):
        evaluate(pipeline, recipe=str(path))
