"""`lightgen eval --metrics` and benchmarks that ask: what is missing is said first, what is there is measured."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.commands.evaluate import evaluate
from flows.errors import UserError
from lightgen_core.images.codec import encode_png
from tests.factories.tiny_vlm import save_tiny_vlm
from tests.support.local_endpoint import Reply, serving, without_waits

CAPTIONS = [f"image {number // 2}" for number in range(12)]
CLIP = {"features": "clip:zoo:clip"}


@pytest.fixture(scope="module")
def noise() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [encode_png(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in CAPTIONS]


@pytest.fixture(scope="module")
def pictures(noise, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "images.parquet"
    pq.write_table(pa.table({"image": noise, "caption": CAPTIONS}), path)
    return str(path)


def test_images_compared_with_themselves_are_equal(pictures, tmp_path):
    names = "fd,kid,cmmd,precision,recall,vendi,diversity,clip,memorisation"
    sets = {"references": pictures, "training": pictures}
    result = evaluate(
        f"images:{pictures}", benchmark="prompts", metrics=names, output=tmp_path, memorised_below=1e-4, **sets, **CLIP
    )
    found = result["metrics"]
    assert list(found) == names.split(",")
    assert found["fd"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["cmmd"]["value"] == pytest.approx(0, abs=1e-3)
    assert [found[name]["value"] for name in ("precision", "recall", "memorisation")] == [1, 1, 1]
    assert 1 < found["vendi"]["value"] < 12
    assert all(each["low"] <= each["value"] <= each["high"] and each["n"] for each in found.values())
    assert result["compared_with"]["references"] == {"location": pictures, "images": 12, "read": 12}
    page = (tmp_path / "scores.md").read_text()
    assert "| metric | value | images | space | meaning |" in page and "12 of 12 images within" in page


def test_a_folder_of_plain_images_is_a_reference(pictures, tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 32), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    options = {"benchmark": "prompts", "metrics": "fd", "references": str(tmp_path), "limit": 2}
    result = evaluate(f"images:{pictures}", **options, **CLIP)
    assert result["metrics"]["fd"]["value"] > 0
    assert (result["compared_with"]["references"]["images"], result["compared_with"]["references"]["read"]) == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "fdi"}, r"--metrics fdi: expected some of fd, .*Did you mean 'fd"),
        ({"metrics": "fd"}, r"fd needs images to compare with: give --references"),
        ({"metrics": "memorisation"}, r"memorisation needs the images that it was trained on: give --training"),
        ({"metrics": "diversity", "images": 1}, r"diversity needs 2 images of each prompt; give --images 2"),
        ({"metrics": "vendi", "features": "timm:no_such"}, r"vendi: found timm model 'no_such'"),
        (
            {"metrics": "vendi", "features": "timm:test_vit@/no/such.safetensors"},
            r"the weights of timm:test_vit",
        ),
        (
            {"metrics": "vendi", "features": "pixels"},
            r"vendi: found space 'pixels'; expected eff",
        ),
    ],
)
def test_what_a_metric_lacks_is_said_before_any_image(pictures, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(f"images:{pictures}", benchmark="prompts", output=tmp_path, **options)
    assert not list(tmp_path.rglob("*.png"))


def test_weights_that_are_not_here_are_named(pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"benchmark": "prompts", "references": pictures}
    with pytest.raises(UserError, match=r"^fid: (FID needs the package torch-fidelity|FID's weights are not here)"):
        evaluate(f"images:{pictures}", metrics="fid", **given)
    with pytest.raises(UserError, match=r"^fd: the weights of timm:test_vit.r160_in1k are not here .* give the file"):
        evaluate(f"images:{pictures}", metrics="fd", features="timm:test_vit.r160_in1k", **given)


def test_a_timm_model_of_a_file_is_a_space(pictures, tmp_path):
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("test_vit", pretrained=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    space = f"timm:test_vit@{tmp_path / 'model.safetensors'}"
    found = evaluate(f"images:{pictures}", benchmark="prompts", metrics="vendi", features=space)["metrics"]["vendi"]
    assert (found["space"], found["n"]) == (space, 12)


DPG = """item_id,text,proposition_id,dependency,tuple,question_natural_language
p0,image 0,1,0,entity - whole (cat),Is there a cat?
p0,image 0,2,1,attribute - state (cat),Is the cat asleep?
p1,image 1,1,0,entity - whole (dog),Is there a dog?
"""


def said(text: str) -> Reply:
    return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


def test_dpg_bench_asks_and_follows_its_dependencies(pictures, tmp_path, monkeypatch):
    """No cat, so no sleeping cat either; every dog is there."""
    without_waits(monkeypatch)
    path = tmp_path / "dpg_bench.csv"
    path.write_text(DPG)

    def answer(body):
        return said("No." if "a cat" in body["messages"][0]["content"][1]["text"] else "Yes")

    with serving(answer) as asked:
        monkeypatch.setenv("LIGHTGEN_VLM_URL", asked.url)
        options = {"benchmark": "dpg", "questions": path, "judge": "reader", "output": tmp_path / "out"}
        result = evaluate(f"images:{pictures}", **options)
        again = evaluate(f"images:{pictures}", **options)
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert scores == {"overall": 0.5, "entity": 0.5, "attribute": 1}
    assert (result["judge"], result["images"]["made"]) == ("reader, DPG-Bench's rule", 4)
    assert again["scores"] == result["scores"]
    assert len(asked.bodies) == 6  # two images of each prompt, each question once, none again


def geneval2(folder):
    path = folder / "geneval2_data.jsonl"
    pairs = [["How many cows are in the image?", "three"], ["Are the cows plastic?", "Yes"]]
    row = {"prompt": "image 0", "atom_count": 3, "vqa_list": pairs, "skills": ["count", "attribute"]}
    path.write_text(json.dumps(row))
    return path


def test_geneval2_is_the_geometric_mean_of_probabilities(pictures, tmp_path, monkeypatch):
    without_waits(monkeypatch)

    def answer(body):
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
        top = [{"token": "3", "logprob": float(np.log(0.25))}, {"token": "Yes", "logprob": 0.0}]
        return Reply({"choices": [{"message": {"content": "?"}, "logprobs": {"content": [{"top_logprobs": top}]}}]})

    with serving(answer) as asked:
        monkeypatch.setenv("LIGHTGEN_VLM_URL", asked.url)
        result = evaluate(f"images:{pictures}", benchmark="geneval2", questions=geneval2(tmp_path), judge="reader")
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert scores == pytest.approx({"overall": 0.5, "count": 0.25, "attribute": 1})


def test_a_judge_without_probabilities_is_no_soft_judge(pictures, tmp_path, monkeypatch):
    without_waits(monkeypatch)
    with serving([said("Yes")]) as asked:
        monkeypatch.setenv("LIGHTGEN_VLM_URL", asked.url)
        with pytest.raises(UserError, match=r"answers without logprobs.*--benchmark geneval2-tifa"):
            evaluate(f"images:{pictures}", benchmark="geneval2", questions=geneval2(tmp_path), judge="reader")


def test_a_judge_of_transformers_answers_here(pictures, tmp_path):
    folder = save_tiny_vlm(tmp_path / "judge", words="yes no three two How many cows are in the image?")
    options = {"questions": geneval2(tmp_path), "judge": f"transformers:{folder}", "output": tmp_path / "out"}
    result = evaluate(f"images:{pictures}", benchmark="geneval2", **options)
    again = evaluate(f"images:{pictures}", benchmark="geneval2", **options)
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert all(0 < value < 1 for value in scores.values()), "soft answers of a model that saw the images"
    assert again["scores"] == result["scores"] and again["images"]["made"] == 0
    with pytest.raises(UserError, match=r"--judge transformers:.*nowhere"):
        evaluate(
            f"images:{pictures}", benchmark="geneval2", **options | {"judge": "transformers:./nowhere", "output": None}
        )


def test_a_benchmark_that_asks_needs_its_file_and_a_judge(pictures):
    with pytest.raises(UserError, match=r"dpg needs --questions FILE: its authors' file is dpg_bench\.csv"):
        evaluate(f"images:{pictures}", benchmark="dpg")
