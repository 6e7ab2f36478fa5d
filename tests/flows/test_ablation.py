"""Ablations: the points of a grid, the stages that runs share, results, and what a kill leaves."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.ablation import validate_ablation
from flows.ablation_axes import grid_points, parse_values
from flows.ablation_outcome import cached_ablation
from flows.commands.ablation_estimate import default_rates, describe_ablation_estimate, estimate_ablation
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from storage.open_store import open_store
from storage.tables import read_table
from tests.factories.finished_run import RECIPE
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow(rank=17)

CAPTIONS = [{"axis": "captions", "values": [40, 240]}]
ITERATIONS = [{"axis": "iterations", "values": [2, 4]}]
TUNED = ["pairs.scorer=clip", "pairs.margin=0.0001"]


def points(**axes: list) -> list[tuple]:
    return [(each.values, each.overrides, each.student) for each in grid_points(list(axes.items()))]


def keys(*overrides: str) -> dict[str, str]:
    artifacts = plan(load_recipe("smoke", overrides), open_store("/nowhere")).artifacts
    return {label: artifact.key for label, artifact in artifacts.items()}


def test_named_axes_are_fields_of_the_recipe():
    assert points(captions=[60]) == [((60,), ("captions.count=60",), "pretrain")]
    assert points(volume=[60]) == [((60,), ("synthesis.count=60",), "pretrain")]
    assert points(iterations=[9]) == [((9,), ("pretrain.steps=9",), "pretrain")]
    assert points(preference=["none", "nft"]) == [
        (("none",), (), "pretrain"),
        (("nft",), ("dpo.objective=nft",), "dpo"),
    ]
    assert points(dedup=[0])[0][1] == ("dedup.threshold=0",), "no word for off"
    assert points(dedup=["off", 0.9])[1] == ((0.9,), ("dedup.threshold=0.9",), "pretrain")
    assert grid_points([("pretrain.optimizer.learning_rate", [1e-3])])[0].overrides == (
        "pretrain.optimizer.learning_rate=0.001",
    )
    assert grid_points([("dpo.steps", [9])])[0].student == "dpo", "pre-training does not read it"


def test_checkpoints_are_kept_by_one_training_and_scored_each():
    kept = "pretrain.keep_steps=[2, 4]"
    assert points(checkpoints=[4, 2]) == [
        ((4,), (kept, "evaluation.checkpoint=4"), "pretrain"),
        ((2,), (kept, "evaluation.checkpoint=2"), "pretrain"),
    ]
    assert grid_points([("checkpoints", [2])], kept=[2, 6])[0].overrides == ("evaluation.checkpoint=2",)
    assert grid_points([("checkpoints", [2])], kept=[6])[0].overrides[0] == "pretrain.keep_steps=[2, 6]"


def test_checkpoints_share_one_training_for_each_seed(tmp_path):
    request = validate_ablation("smoke", [{"axis": "checkpoints", "values": [10, 20, 40]}], 2, str(tmp_path))
    stages = [planned.artifact.stage for planned in request.chosen]
    assert [stages.count(name) for name in ("tokens", "pretrain", "evaluation")] == [1, 2, 6]
    with pytest.raises(UserError, match="expected ascending steps up to the last, 40"):
        validate_ablation("smoke", [{"axis": "checkpoints", "values": [10, 41]}], 2, str(tmp_path))


def test_two_axes_give_a_grid_the_last_one_fastest():
    found = grid_points([("captions", [1, 2]), ("preference", ["none", "sft"])])
    assert [point.values for point in found] == [(1, "none"), (1, "sft"), (2, "none"), (2, "sft")]
    assert [point.student for point in found] == ["pretrain", "dpo"] * 2


def test_values_are_read_as_yaml():
    assert parse_values("100, 0.5,off,true") == [100, 0.5, "off", True]
    assert parse_values("[64, 128], [256]") == [[64, 128], [256]]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([("caption", [1])], "no axis 'caption'.*Did you mean 'captions'"),
        ([("preference", ["nfd"])], "no 'nfd'.*Did you mean 'nft'"),
        ([("evaluation.images", [1])], "would change what the points are compared on"),
        ([("seed", [1])], "--seeds varies the seed of training"),
        ([("captions", [1]), ("captions.count", [2])], "two different ones"),
        ([], "found axes none"),
        ([("checkpoints", ["last"])], "found 'last'; expected steps of the training"),
        ([("checkpoints", [2]), ("preference", ["nft"])], "tuning begins with its last one; leave --axis preference"),
    ],
)
def test_an_axis_that_cannot_be_compared_is_refused(axes, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        grid_points(axes)


@pytest.mark.parametrize("text", ["1,1", "", "[1"])
def test_values_that_are_none_or_twice_there_are_refused(text):
    with pytest.raises(UserError, match="--values"):
        parse_values(text)


def test_a_recipe_that_nobody_judges_is_refused(tmp_path):
    unjudged = ["evaluation.benchmark=prompts", "pairs.kind=teacher", "pairs.scorer=none"]
    with pytest.raises(UserError, match="which nobody judges"):
        validate_ablation("smoke", CAPTIONS, 1, str(tmp_path), unjudged)


def test_another_training_seed_leaves_all_data_alone():
    default, other = keys(), keys("training_seed=1")
    same = [label for label in default if default[label] == other[label]]
    assert same == ["captions", "synthesis", "embeddings", "dedup", "tokens"]
    assert keys("training_seed=0") == default, "the seed itself"
    assert other["pretrain"] == keys("training_seed=1", "dpo.steps=20")["pretrain"]


def test_rounds_follow_the_training_seed():
    default, other = keys("dpo.rounds=2"), keys("dpo.rounds=2", "training_seed=1")
    assert all(default[label] != other[label] for label in ("pairs", "dpo", "pairs-2", "dpo-2"))


def test_what_runs_share_is_planned_once(tmp_path):
    """Two sets of data for two captions' counts, whatever the seeds; then a student and an evaluation for each run."""
    request = validate_ablation("smoke", CAPTIONS, 3, str(tmp_path))
    assert (request.stages_of_runs, len(request.chosen)) == (6 * 7, 2 * 5 + 6 * 2 + 1)
    alone = plan(load_recipe("smoke"), request.store)
    assert request.runs[3].artifacts["pretrain"].key == alone.artifacts["pretrain"].key, "the recipe's own student"
    tuned = validate_ablation("smoke", [{"axis": "preference", "values": ["none", "sft", "nft"]}], 2, str(tmp_path))
    stages = [planned.artifact.stage for planned in tuned.chosen]
    assert [stages.count(name) for name in ("tokens", "pretrain", "pairs", "dpo", "evaluation")] == [1, 2, 2, 4, 6]


def test_points_have_no_control_beside_them(tmp_path):
    """It is a point of its own, with its own learning rate."""
    axes = [{"axis": "preference", "values": ["none", "sft", "nft"]}]
    given = ["dpo.control=sft", "dpo.control_learning_rate=3e-6", "dpo.rounds=2"]
    runs = validate_ablation("smoke", axes, 1, str(tmp_path), given).runs
    assert [label for run in runs for label in run.stages if label.startswith("dpo")] == ["dpo", "dpo-2"] * 2
    rates = [run.stages["dpo-2"].recipe.dpo.optimizer.learning_rate for run in runs[1:]]
    assert rates == [3e-6, 1e-5]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[str, str]:
    """Recipe and store of an ablation that was killed in its second student, of four."""
    folder: Path = tmp_path_factory.mktemp("ablation")
    (folder / "tiny.yaml").write_text(RECIPE)
    recipe, store = str(folder / "tiny.yaml"), str(folder / "store")
    command = [sys.executable, "-m", "tests.programs.ablate_and_die", recipe, store, "7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return recipe, store


@pytest.fixture(scope="module")
def finished(killed):
    """The same ablation, run again; with it which stages this made."""
    request = validate_ablation(killed[0], ITERATIONS, 2, killed[1])
    before = estimate_ablation(request, default_rates({}, None, 0.4))
    made = [
        planned.artifact.stage
        for planned in request.chosen
        if planned.stage.run(planned.recipe, request.settings, planned.inputs, planned.artifact)
    ]
    return request, made, before


def test_an_ablation_that_was_killed_goes_on_where_it_stopped(finished):
    request, made, _ = finished
    assert made == ["pretrain", "evaluation"] * 3 + ["ablation"]
    assert len(request.chosen) - len(made) == 7, "data, the first student and its evaluation"


def test_the_estimate_counts_what_is_missing_at_stores_speeds(finished):
    before = finished[2]
    assert (before["stages_of_all_runs"], before["different"], before["to_make"]) == (28, 13, 6)
    assert (before["speeds"], before["not_counted"]) == (["measured"], [])
    assert before["seconds"] == pytest.approx(sum(before["seconds_by_stage"].values()))
    assert before["seconds"] > 0
    assert "28 stages of all runs are 13 different ones, 6 of them to make" in describe_ablation_estimate(before)


def test_an_ablation_that_is_done_needs_no_prefect(finished):
    request, _, _ = finished
    result = cached_ablation(request)
    assert result is not None
    assert result["stages"] == {"of_all_runs": 28, "different": 13, "ran": 0, "cached": 13}


def test_results_are_the_verdicts_of_every_run(finished):
    request, _, _ = finished
    artifact = request.last.artifact
    result = json.load(artifact.open("results.json"))
    assert [point["values"] for point in result["points"]] == [{"iterations": 2}, {"iterations": 4}]
    assert [point["data"]["steps"] for point in result["points"]] == [2, 4]
    runs = [run for point in result["points"] for run in point["runs"]]
    for run, planner in zip(runs, request.runs, strict=True):
        evaluation = planner.artifacts["evaluation"]
        correct = read_table(evaluation, "^samples")["correct"].to_pylist()
        assert run["evaluation"] == evaluation.key
        assert run["scores"]["overall"] == pytest.approx(np.mean(correct))
        assert evaluation.manifest().metrics["scores"]["dpo"] is None, "only the student of the axis was scored"
    assert [(each["later"], each["earlier"]) for each in result["differences"]] == [(1, 0)]
    assert "| 4 - 2 " in artifact.open("table.md").read().decode()
    assert artifact.open("figure.svg").read().startswith(b"<svg xmlns")


def test_lineage_names_every_run_by_point_and_seed(finished):
    request, _, _ = finished
    labels = [f"evaluation-{point}-{seed}" for point in (1, 2) for seed in (1, 2)]
    manifest = request.last.artifact.manifest()
    evaluations = [run.artifacts["evaluation"].key for run in request.runs]
    assert manifest.inputs == dict(zip(labels, evaluations, strict=True))
    assert manifest.config["grid"]["points"][0] == {"values": ["2"], "student": "pretrain"}
