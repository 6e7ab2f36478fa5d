"""`lightgen eval` of images that exist and of endpoints, and the folder in which an evaluation continues."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.checkpoint import Checkpoint
from flows.commands.evaluate import evaluate
from flows.commands.evaluate_contamination import contamination
from flows.commands.evaluate_tables import describe_evaluation
from flows.errors import UserError
from lightgen_core.images.codec import encode_png
from lightgen_core.teachers.scene import SceneTeacher
from storage.artifact import Artifact
from storage.local import LocalStore
from storage.tables import to_parquet
from tasks.config.recipe import Recipe
from tasks.evaluation_prompts import evaluation_prompts
from tests.support.local_endpoint import Reply, serving, without_waits
from tests.support.stores import commit

RECIPE = Recipe.model_validate({"name": "eval", "evaluation": {"per_category": 1}})
PROMPTS = evaluation_prompts(RECIPE)
CAPTIONS = [prompt.caption for prompt in PROMPTS]


def rendered() -> list[bytes]:
    """Images that show each prompt of the scene benchmark exactly."""
    images = SceneTeacher(RECIPE.world).generate(CAPTIONS, range(len(CAPTIONS)))
    return [encode_png(image) for image in images]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """A Parquet file of right images."""
    path = tmp_path_factory.mktemp("pictures") / "images.parquet"
    pq.write_table(pa.table({"image": rendered(), "prompt": CAPTIONS}), path)
    return f"images:{path}"


def test_right_images_of_a_parquet_file_score_one(pictures):
    result = evaluate(pictures, per_category=1)
    assert (result["scores"]["overall"]["value"], result["scores"]["overall"]["n"]) == (1, 6)
    assert (result["images"]["made"], result["images"]["kept"], result["contamination"]) == (6, 0, None)


def test_images_under_each_other_s_captions_score_zero(tmp_path):
    pq.write_table(pa.table({"image": rendered()[1:] + rendered()[:1], "prompt": CAPTIONS}), tmp_path / "p.parquet")
    assert evaluate(f"images:{tmp_path / 'p.parquet'}", per_category=1)["scores"]["overall"]["value"] == 0


def test_an_evaluation_s_folder_is_a_source_of_equal_scores(pictures, tmp_path):
    first = evaluate(pictures, per_category=1, output=tmp_path)
    again = evaluate(f"images:{tmp_path}", per_category=1)
    assert again["scores"] == first["scores"]


def test_a_second_run_makes_only_what_is_missing(pictures, tmp_path):
    first = evaluate(pictures, per_category=1, output=tmp_path)
    lines = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "00002/samples/0000.png").unlink()
    again = evaluate(pictures, per_category=1, output=tmp_path)
    assert (again["images"]["made"], again["images"]["kept"]) == (1, 5)
    assert again["scores"] == first["scores"]
    assert (tmp_path / "results.jsonl").read_text() == lines


def test_a_torn_last_line_costs_one_image(pictures, tmp_path):
    """Leave what a kill in the middle of writing does."""
    evaluate(pictures, per_category=1, output=tmp_path)
    text = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(text[:-20])
    assert evaluate(pictures, per_category=1, output=tmp_path)["images"]["made"] == 1
    assert (tmp_path / "results.jsonl").read_text() == text


def test_another_judge_means_another_verdict_of_kept_images(pictures, tmp_path):
    evaluate(pictures, per_category=1, output=tmp_path)
    about = json.loads((tmp_path / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(about | {"judge": {"judge": "a coin"}}))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    wrong = "".join(json.dumps(line | {"correct": False}) + "\n" for line in lines)
    (tmp_path / "results.jsonl").write_text(wrong)
    again = evaluate(pictures, per_category=1, output=tmp_path)
    assert (again["scores"]["overall"]["value"], again["images"]["made"]) == (1, 0)


def test_a_folder_of_another_evaluation_is_refused(pictures, tmp_path):
    evaluate(pictures, per_category=1, output=tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(CAPTIONS[0])
    with pytest.raises(UserError, match=r"holds images of another evaluation; benchmark, prompts differ"):
        evaluate(pictures, prompts=prompts, output=tmp_path)


def test_all_images_are_evaluated_unless_a_number_is_given(tmp_path):
    captions = [f"thing {number}" for number in range(130)]
    blank = encode_png(np.zeros((8, 8, 3), np.uint8))
    pq.write_table(pa.table({"image": [blank] * 130, "prompt": captions}), tmp_path / "many.parquet")
    source = f"images:{tmp_path / 'many.parquet'}"
    assert evaluate(source, benchmark="prompts", output=tmp_path / "all")["images"]["made"] == 130
    assert evaluate(source, benchmark="prompts", per_category=50, output=tmp_path / "few")["images"]["made"] == 50


def test_prompts_without_an_image_are_counted(pictures):
    with pytest.raises(UserError, match=r"has no image of 6 of the 12 prompts"):
        evaluate(pictures, per_category=2)


def test_geneval_s_folders_bring_their_own_prompts(tmp_path):
    folder = tmp_path / "00000"
    (folder / "samples").mkdir(parents=True)
    row = {"tag": "colors", "prompt": "a red mug"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    Image.new("RGB", (8, 8)).save(folder / "samples" / "0000.png")
    result = evaluate(f"images:{tmp_path}", benchmark="prompts", output=tmp_path / "kept")
    assert (result["scores"], result["images"]["made"]) == (None, 1)
    line = json.loads((tmp_path / "kept" / "results.jsonl").read_text())
    assert (line["tag"], line["prompt"]) == ("colors", "a red mug")
    assert "nobody judges these images" in (tmp_path / "kept" / "scores.md").read_text()


def test_a_damaged_image_ends_the_evaluation(tmp_path):
    pq.write_table(pa.table({"image": [b"\x89PNG no image"] * 6, "prompt": CAPTIONS}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="no image of"):
        evaluate(f"images:{tmp_path / 'p.parquet'}", per_category=1)


def test_an_endpoint_is_scored_by_its_address(monkeypatch):
    without_waits(monkeypatch)
    drawn = dict(zip(CAPTIONS, rendered(), strict=True))

    def answer(body):
        if "prompt" not in body:
            return Reply({"data": [{"id": "painter"}]})
        return Reply({"data": [{"b64_json": base64.b64encode(drawn[body["prompt"]]).decode()}]})

    with serving(answer) as asked:
        result = evaluate(f"endpoint:{asked.url}", per_category=1, images=1, size=48)
    assert result["scores"]["overall"]["value"] == 1
    assert {(body["model"], body["size"]) for body in asked.bodies if body} == {("painter", "48x48")}
    assert len({body["seed"] for body in asked.bodies if body}) == 6


def test_a_refused_prompt_counts_as_wrong_and_is_kept(monkeypatch, tmp_path):
    without_waits(monkeypatch)
    drawn = dict(zip(CAPTIONS, rendered(), strict=True))

    def answer(body):
        if body["prompt"] == CAPTIONS[0]:
            return Reply({"error": {"message": "content policy"}}, status=400)
        return Reply({"data": [{"b64_json": base64.b64encode(drawn[body["prompt"]]).decode()}]})

    with serving(answer) as asked:
        model = f"endpoint:{asked.url}#painter"
        result = evaluate(model, per_category=1, images=1, output=tmp_path)
        again = evaluate(model, per_category=1, images=1, output=tmp_path)
    assert result["scores"]["overall"]["value"] == pytest.approx(5 / 6)
    assert again["scores"] == result["scores"]
    assert (again["images"]["made"], len(asked.bodies)) == (0, 6)


def test_an_endpoint_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1/models names no model"):
        evaluate("endpoint:http://127.0.0.1:9/v1")


def trained_on(folder: Path, captions: list[str]) -> Checkpoint:
    """A student whose manifest names tokens with these captions."""
    store = LocalStore(folder)
    tokens, student = Artifact(store, "tokens", "aaaa"), Artifact(store, "pretrain", "bbbb")
    tokens.add("text-00000.parquet", to_parquet(pa.table({"caption": captions})), len(captions), {})
    commit(tokens)
    student.add("student/config.json", b"{}", 0, {})
    commit(student)
    path = folder / "pretrain/bbbb/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"tokens": "aaaa"}}))
    return Checkpoint(folder / "pretrain/bbbb/student", student)


def test_prompts_in_the_training_captions_are_counted(tmp_path):
    captions = ["A red  circle!", "a photo of a blue cat on a mat", "a green star", "a green star"]
    found = contamination(["a red circle", "blue cat on a mat", "two dogs"], trained_on(tmp_path, captions))
    assert (found["prompts"], found["captions"], found["contaminated_prompts"]) == (3, 3, 2)
    assert (found["exact"], found["n-gram"]) == (1, 1)


def test_an_unknown_training_set_is_said_to_be_unknown(pictures, tmp_path):
    lost = trained_on(tmp_path, ["a red circle"])
    assert contamination(["a red circle"], replace(lost, artifact=None)) is None
    assert "contamination: not known" in describe_evaluation(evaluate(pictures, per_category=1))


def test_kept_images_are_those_that_were_judged(pictures, tmp_path):
    evaluate(pictures, per_category=1, output=tmp_path)
    kept = np.asarray(Image.open(tmp_path / "00000/samples/0000.png"))
    assert np.array_equal(kept, np.asarray(Image.open(io.BytesIO(rendered()[0]))))
