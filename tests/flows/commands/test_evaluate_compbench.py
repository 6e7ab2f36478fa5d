"""`lightgen eval --benchmark t2i-compbench`: each category by its judges, and what is not kept is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("spacy")

from flows.commands.evaluate import evaluate
from flows.errors import UserError
from lightgen_core.images.codec import encode_png
from tests.factories.tiny_compbench import save_list_parser, save_tiny_blip, save_tiny_owl
from tests.support.local_endpoint import Reply, serving, without_waits

PROMPTS = {
    "color_val.txt": ["a green bench and a blue bowl", "a blue bench"],
    "spatial_val.txt": ["a cat near a cup", "a cat on the left of a cup"],
    "non_spatial_val.txt": ["the cat chases a ball"],
    "complex_val.txt": ["the red cat is near a cup", "the red cat chases a soft ball"],
    "numeracy_val.txt": ["cat"],
    "3d_spatial_val.txt": ["a cat"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    for name, captions in PROMPTS.items():
        (folder / name).write_bytes("".join(f"{caption}\r\n" for caption in captions).encode())
    (folder / "complex_val_spatial.txt").write_text(PROMPTS["complex_val.txt"][0] + "\n")
    (folder / "complex_val_action.txt").write_text(PROMPTS["complex_val.txt"][1] + "\n")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image of every prompt."""
    path, rng = tmp_path_factory.mktemp("images") / "images.parquet", np.random.default_rng(0)
    captions = [caption for captions in PROMPTS.values() for caption in captions]
    noise = [encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in captions]
    pq.write_table(pa.table({"image": noise, "caption": captions}), path)
    return f"images:{path}"


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return save_list_parser(tmp_path_factory.mktemp("parser") / "by_list")


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return save_tiny_blip(tmp_path_factory.mktemp("blip") / "model", answer={"yes": float(np.log(3))})


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    return save_tiny_owl(tmp_path_factory.mktemp("owl") / "model")


def values(result):
    return {name: score["value"] for name, score in result["scores"].items()}


def test_attributes_are_the_product_of_blip_s_yes(images, files, parser, blip, tmp_path):
    """Two phrases of 3/4 each, and one: (9/16 + 3/4) / 2."""
    given = {"benchmark": "t2i-compbench", "questions": files / "color_val.txt", "parser": parser}
    result = evaluate(images, judge=f"blip:{blip}", output=tmp_path / "out", **given)
    assert values(result) == pytest.approx({"color": 0.65625})
    assert (result["judge"], result["scores"]["color"]["n"]) == (f"BLIP-VQA by {blip}", 2)
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    assert row["parts"] == pytest.approx({"attributes": 0.5625})
    again = evaluate(images, judge=f"blip:{blip}", output=tmp_path / "out", **given)
    assert (again["scores"], again["images"]["made"]) == (result["scores"], 0)


def first_token(body):
    """Yes with 0.6 and no with 0.2 to a bench, no alone to anything else."""
    bench = "bench" in body["messages"][0]["content"][1]["text"]
    tokens = [("Yes", 0.6), ("no", 0.2)] if bench else [("No", 0.9)]
    top = [{"token": token, "logprob": float(np.log(share))} for token, share in tokens]
    return Reply({"choices": [{"message": {"content": "?"}, "logprobs": {"content": [{"top_logprobs": top}]}}]})


def test_another_model_may_answer_and_is_named(images, files, parser, monkeypatch):
    without_waits(monkeypatch)
    with serving(first_token) as asked:
        monkeypatch.setenv("LIGHTGEN_VLM_URL", asked.url)
        result = evaluate(
            images, benchmark="t2i-compbench", questions=files / "color_val.txt", judge="reader", parser=parser
        )
    assert values(result) == pytest.approx({"color": 0.375})  # 0 with the bowl, 3/4 without
    assert result["judge"] == "yes of reader, not BLIP-VQA"


def test_relations_are_placed_by_an_open_detector(images, files, parser, owl):
    given = {"benchmark": "t2i-compbench", "questions": files / "spatial_val.txt", "parser": parser}
    with pytest.raises(UserError, match=r"UniDet, whose code needs detectron2 and is not kept\. --detector MODEL"):
        evaluate(images, **given)
    result = evaluate(images, detector=owl, **given)
    assert result["judge"] == f"boxes of {owl}, not UniDet"
    assert 0 <= values(result)["spatial"] <= 1


def test_actions_are_clip_s_cosine(images, files):
    given = {"questions": files / "non_spatial_val.txt", "clip": "zoo:clip"}
    result = evaluate(images, benchmark="t2i-compbench", **given)
    measured = evaluate(images, benchmark="t2i-compbench", metrics="clip", **given)["metrics"]["clip"]
    assert values(result)["non_spatial"] == pytest.approx(measured["value"], abs=1e-6)
    assert result["judge"] == "CLIPScore by zoo:clip, not ViT-B-32/openai"


def test_complex_prompts_are_the_mean_of_what_they_hold(images, files, parser, blip, owl, tmp_path):
    judges = {"judge": f"blip:{blip}", "detector": owl, "clip": "zoo:clip", "parser": parser}
    result = evaluate(
        images, benchmark="t2i-compbench", questions=files / "complex_val.txt", output=tmp_path / "out", **judges
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [set(row["parts"]) for row in rows] == [{"attributes", "spatial"}, {"attributes", "action"}]
    assert all(row["score"] == pytest.approx(np.mean(list(row["parts"].values()))) for row in rows)
    assert values(result)["complex"] == pytest.approx(np.mean([row["score"] for row in rows]))
    assert values(result)["attributes"] == pytest.approx(0.5625)
    assert {name: score["n"] for name, score in result["scores"].items()} == {
        "complex": 2,
        "attributes": 2,
        "spatial": 1,
        "action": 1,
    }


@pytest.mark.parametrize("name", ["numeracy_val.txt", "3d_spatial_val.txt"])
def test_what_unidet_alone_judges_is_refused_with_a_way_out(images, files, name):
    with pytest.raises(UserError, match=r"is not kept.* --benchmark t2i-compbench-mllm --judge MODEL"):
        evaluate(images, benchmark="t2i-compbench", questions=files / name)


def test_a_model_describes_and_then_rates(images, files, parser, monkeypatch):
    """The bench is there as asked, the bowl in another colour: 1 times 0.2, and the second prompt 1."""
    without_waits(monkeypatch)

    def answer(body):
        text = body["messages"][0]["content"][1]["text"]
        said = "A bench." if text.startswith("Describe") else "2" if "there is bowl" in text else "4"
        return Reply({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    with serving(answer) as asked:
        monkeypatch.setenv("LIGHTGEN_VLM_URL", asked.url)
        given = {"benchmark": "t2i-compbench-mllm", "judge": "reader", "parser": parser}
        result = evaluate(images, questions=files / "color_val.txt", **given)
        placed = evaluate(images, questions=files / "3d_spatial_val.txt", **given)
    assert values(result) == pytest.approx({"color": 0.6})
    assert values(placed) == pytest.approx({"3d_spatial": 0.8})
    assert result["judge"] == "reader, T2I-CompBench's ratings"


def test_what_a_category_lacks_is_said_first(images, files, parser):
    given = {"benchmark": "t2i-compbench", "questions": files / "color_val.txt"}
    with pytest.raises(UserError, match="needs --judge for color: blip:MODEL"):
        evaluate(images, parser=parser, **given)
    with pytest.raises(UserError, match="spaCy has no pipeline no_such here"):
        evaluate(images, judge="reader", parser="no_such", **given)
    with pytest.raises(UserError, match=r"t2i-compbench needs --questions FILE: CATEGORY_val\.txt of github"):
        evaluate(images, benchmark="t2i-compbench")
    with pytest.raises(UserError, match="--detector goes with --benchmark t2i-compbench, not with prompts"):
        evaluate(images, benchmark="prompts", detector="owl")
    with pytest.raises(UserError, match="--judge blip:/no/such: found model '/no/such'"):
        evaluate(images, judge="blip:/no/such", parser=parser, **given)
