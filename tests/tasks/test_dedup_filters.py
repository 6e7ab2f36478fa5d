"""The filters of dedup: a row for each drop with its value and threshold, what is reused, and what the report shows."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from flows.load import load_recipe
from lightgen_core.endpoint import EndpointError
from lightgen_core.images.codec import encode_png
from lightgen_core.report.page import render_report
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.tables import IMAGE, read_table
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.dedup import dedup
from tasks.report_filters import filter_reasons
from tasks.report_inputs import RunArtifacts
from tasks.stage import stage
from tests.core.report.test_page import report
from tests.factories.tiny_vlm import save_tiny_vlm
from tests.factories.vectors import unit
from tests.support.local_endpoint import Reply, serving, without_waits

ROWS, SHARD, SIDE = 12, 4, 24
NAMES = ["small", "elongated", "blurred", *(f"thing {n}" for n in range(3, ROWS))]


def picture(row: int) -> bytes:
    """Noise, but for the first three: too small, too long, and of one colour."""
    shape = {0: (8, 8, 3), 1: (SIDE, 5 * SIDE, 3)}.get(row, (SIDE, SIDE, 3))
    image = np.random.default_rng(row).integers(0, 256, shape, dtype=np.uint8)
    return encode_png(image if row != 2 else np.full(shape, 9, np.uint8))


@stage(version=1, config_sections=())
def synthesis(ctx: StageContext) -> None:
    for start in range(0, ROWS, SHARD):
        rows, encoded = range(start, start + SHARD), [picture(row) for row in range(start, start + SHARD)]
        columns = dict.fromkeys(("topic", "caption", "meaning"), NAMES[start : start + SHARD])
        columns |= {"id": rows, "sha256": [hashlib.sha256(data).hexdigest() for data in encoded]}
        columns["image"] = pa.array([{"bytes": data, "path": "x.png"} for data in encoded], IMAGE)
        ctx.write_table(f"images-{start // SHARD:05d}.parquet", pa.table(columns))


@stage(version=1, config_sections=())
def embeddings(ctx: StageContext) -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(ROWS, 16)))
    vectors[4] = vectors[3]
    columns = {"id": range(ROWS), "score": np.linspace(0.5, 0.1, ROWS, dtype=np.float32)}
    columns["image"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 16)
    ctx.write_table("embeddings-00000.parquet", pa.table(columns | {"pixels": NAMES}))


def made(folder, *changes: str, url: str = "http://127.0.0.1:9/v1") -> tuple[Artifact, RunArtifacts]:
    """Run dedup in a store with the smoke recipe and these changes."""
    recipe = load_recipe("smoke", ["dedup.compare=all", "dedup.copies.planted=0", *changes])
    store, settings = open_store(str(folder)), Settings(device="cpu", threads=1, vlm_url=url)
    inputs = []
    for what in (synthesis, embeddings):
        inputs.append(what.artifact(recipe, store, ()))
        what.run(recipe, settings, (), inputs[-1])
    artifact = dedup.artifact(recipe, store, tuple(inputs))
    dedup.run(recipe, settings, tuple(inputs), artifact)
    return artifact, RunArtifacts({"synthesis": inputs[0], "embeddings": inputs[1], "dedup": artifact}, recipe)


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


@pytest.fixture
def head(tmp_path):
    """An aesthetic head whose score is ten times the first value of an embedding."""
    weight = np.zeros((1, 16), np.float32)
    weight[0, 0] = 10
    save_file({"weight": weight, "bias": np.zeros(1, np.float32)}, tmp_path / "head.safetensors")
    return f"dedup.filters.heads=[{{name: aesthetic, weights: {tmp_path}/head.safetensors, min: -2.5}}]"


MEANING = "dedup.compare=meaning"
PIXELS = ("dedup.filters.min_side=16", "dedup.filters.max_aspect=4", "dedup.filters.min_sharpness=10")
JUDGE = "dedup.filters.judge={model: judge, min_score: 5}"


def drops(artifact: Artifact) -> list[tuple]:
    rows = read_table(artifact, "^keep").to_pylist()
    return [(row["id"], row["reason"], row["value"], row["threshold"]) for row in rows if not row["kept"]]


def test_each_drop_is_a_row_with_its_value_and_threshold(tmp_path, head):
    artifact, run = made(tmp_path / "store", MEANING, *PIXELS, head, "dedup.min_clip_score=0.15")
    found = drops(artifact)
    assert found[:3] == [(0, "small", 8, 16), (1, "elongated", 5, 4), (2, "blurred", 0, 10)]
    vectors = np.stack(read_table(run.artifacts["embeddings"], "^emb", ["image"])["image"].to_numpy())
    low = set(np.flatnonzero(10 * vectors[:, 0] < -2.5).tolist()) - {0, 1, 2, 11}
    rest = {number: (reason, value, threshold) for number, reason, value, threshold in found[3:]}
    assert rest[11] == ("low text-image score", pytest.approx(0.1), pytest.approx(0.15))
    assert {number for number, (reason, *_) in rest.items() if reason == "low aesthetic"} == low != set()
    assert artifact.manifest().counts["rows"] == ROWS
    assert [file.name for file in artifact.manifest().files if "measures" in file.name][2] == "measures-00002.parquet"


def test_recipes_without_filters_have_the_columns_they_had(tmp_path):
    artifact, _ = made(tmp_path / "store", MEANING)
    assert read_table(artifact, "^keep").column_names == ["id", "kept", "reason", "duplicate_of", "similarity"]
    assert "filters" not in artifact.manifest().config["dedup"]


def score_of(body: dict) -> Reply:
    """A judge that knows two things it does not like, and one it will not speak of."""
    caption = body["messages"][0]["content"][1]["text"].rpartition(": ")[2]
    text = {"thing 5": "2", "thing 6": "4.5", "thing 7": "no comment"}.get(caption, "9")
    return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


def test_the_judge_scores_only_what_passes_the_other_filters(tmp_path):
    with serving(score_of) as asked:
        artifact, _ = made(tmp_path / "store", MEANING, *PIXELS, JUDGE, url=asked.url)
    found = {number: rest for number, *rest in drops(artifact)}
    assert len(asked.bodies) == ROWS - 3
    assert found[5] == ["low judge score", 2, 5]
    assert found[6] == ["low judge score", 4.5, 5]
    assert found[7] == ["no judge score", None, 5]
    answers = read_table(artifact, "^judgements")
    assert answers["answer"].to_pylist()[4] == "no comment"


def test_a_judge_of_transformers_scores_in_the_stage(tmp_path):
    """Its weights enter the key: another model of the same name and place judges anew."""
    numbers = save_tiny_vlm(tmp_path / "judge", words="0 1 2 3 4 5 6 7 8 9 10 thing")
    judge = (
        f"dedup.filters.judge={{model: {numbers}, backend: transformers, dtype: float32, temperature: 1, min_score: 5}}"
    )
    artifact, run = made(tmp_path / "store", MEANING, *PIXELS, judge)
    answers = read_table(artifact, "^judgements").to_pylist()
    dropped = {number: (reason, value) for number, reason, value, _ in drops(artifact)[3:]}
    scores = {row["id"]: row["score"] for row in answers}
    low = {number: ("low judge score", score) for number, score in scores.items() if score is not None and score < 5}
    silent = {number: ("no judge score", None) for number, score in scores.items() if score is None}
    assert len(scores) == ROWS - 3 and dropped == low | silent
    assert len({row["answer"] for row in answers}) > 1, "each answer has its seed"
    save_tiny_vlm(numbers, words="9 8 7 6 5 4 3 2 1 0 10 thing")
    assert dedup.artifact(run.recipe, artifact.store, (run.artifacts["synthesis"],)).key != artifact.key


def test_another_threshold_measures_and_asks_nothing_twice(tmp_path):
    with serving(score_of) as asked:
        made(tmp_path / "store", MEANING, *PIXELS, JUDGE, url=asked.url)
        changed = JUDGE.replace("5}", "3}")
        again, _ = made(tmp_path / "store", MEANING, *PIXELS, "dedup.filters.min_side=4", changed, url=asked.url)
    assert len(asked.bodies) == ROWS - 3 + 1, "of the image that is no longer too small"
    assert sum(file.reused for file in again.manifest().files if file.name.startswith("measures")) == ROWS
    reused = {file.name: file.reused for file in again.manifest().files if file.name.startswith("judgements")}
    assert list(reused.values()) == [1, 4, 4]
    assert [number for number, reason, *_ in drops(again) if reason == "low judge score"] == [5]


def test_a_judge_that_stops_halfway_is_asked_only_the_rest(tmp_path):
    """Killed at the last shard: the two before it are kept, with the answer of the third that came."""
    with serving(score_of) as asked:
        whole, _ = made(tmp_path / "whole", MEANING, *PIXELS, JUDGE, url=asked.url)
    turns = iter(range(ROWS))

    def breaks(body: dict) -> Reply:
        return score_of(body) if next(turns) < 6 else Reply({"error": "no money"}, 402)

    with serving(breaks) as broken, pytest.raises(EndpointError, match="402"):
        made(tmp_path / "store", MEANING, *PIXELS, JUDGE, url=broken.url)
    with serving(score_of) as asked:
        again, _ = made(tmp_path / "store", MEANING, *PIXELS, JUDGE, url=asked.url)
    assert len(asked.bodies) == 3
    assert {file.name: file.sha256 for file in again.manifest().files} == {
        file.name: file.sha256 for file in whole.manifest().files
    }


def test_filters_that_leave_nothing_say_which_dropped_most(tmp_path):
    with pytest.raises(ValueError, match=r"dedup\.filters leave no image of 12: blurred 10, small 1, elongated 1"):
        made(tmp_path / "store", MEANING, *PIXELS[:2], "dedup.filters.min_sharpness=1e9")


def test_the_report_gets_examples_of_each_reason(tmp_path):
    _, run = made(tmp_path / "store", MEANING, *PIXELS, "dedup.min_clip_score=0.34", "report.filtered=2")
    reasons = filter_reasons(run)
    assert [(reason.name, reason.count) for reason in reasons] == [
        ("low text-image score", 7),
        ("blurred", 1),
        ("elongated", 1),
        ("small", 1),
    ]
    assert [example.caption for example in reasons[0].examples] == ["thing 11", "thing 5"], "the clearest, the mildest"
    assert (reasons[3].examples[0].image.shape, reasons[3].examples[0].caption) == ((8, 8, 3), "small")


@pytest.mark.parametrize("method", ["random", "balanced", "k_centre", "score"])
def test_a_subset_is_taken_of_what_the_other_rules_left(tmp_path, method):
    whole, _ = made(tmp_path, MEANING, "dedup.filters.min_side=10")
    artifact, run = made(
        tmp_path, MEANING, "dedup.filters.min_side=10", "dedup.select.count=5", f"dedup.select.method={method}"
    )
    before, after = (read_table(each, "^keep", ["id", "kept", "reason"]).to_pylist() for each in (whole, artifact))
    assert sum(row["kept"] for row in before) == 11
    assert sum(row["kept"] for row in after) == artifact.manifest().counts["kept"] == 5
    for old, new in zip(before, after, strict=True):
        assert new == old or (old["kept"] and (new["kept"], new["reason"]) == (False, "not selected"))
    assert artifact.manifest().metrics["reasons"]["not selected"] == 6
    (reason,) = (each for each in filter_reasons(run) if each.name == "not selected")
    assert reason.count == 6
    assert made(tmp_path, MEANING, "dedup.filters.min_side=10")[0].key == whole.key != artifact.key


def test_drops_without_a_section_of_filters_have_examples_too(tmp_path):
    """A low text-image score and what a selection leaves out; the table then has no values, the embeddings do."""
    lines = (
        "dedup.min_clip_score=0.34",
        "dedup.drop_lowest_fraction=0.67",
        "dedup.select.count=3",
        "report.filtered=20",
    )
    _, run = made(tmp_path, MEANING, *lines)
    low, unselected = filter_reasons(run)
    assert (low.name, low.count, unselected.name, unselected.count) == ("low text-image score", 8, "not selected", 1)
    assert [example.caption for example in low.examples] == [f"thing {number}" for number in range(11, 3, -1)]
    below = [example.value for example in low.examples if example.threshold is not None]
    assert max(below) < 0.34 <= low.examples[len(below)].value
    assert (unselected.examples[0].value, unselected.examples[0].threshold) == (None, None)


def test_a_report_shows_what_filters_and_a_selection_left_out(tmp_path):
    """All reasons at once, with values and without."""
    with serving(score_of) as asked:
        lines = ("dedup.min_clip_score=0.12", "dedup.select.count=4", *PIXELS, JUDGE)
        _, run = made(tmp_path, MEANING, *lines, url=asked.url)
    reasons = filter_reasons(run)
    assert {reason.name for reason in reasons} == {
        "small", "elongated", "blurred", "low text-image score", "low judge score", "no judge score", "not selected",
    }  # fmt: skip
    page = render_report(replace(report(), filtered=reasons))
    assert all(f"<h4>{reason.name.capitalize()}: {reason.count}</h4>" in page for reason in reasons)
