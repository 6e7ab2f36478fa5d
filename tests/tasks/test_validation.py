"""Images held out of pre-training, students kept on the way, and their scores, on a training of seconds."""

import json

import numpy as np
import pytest

from flows.ablation import validate_ablation
from flows.load import load_recipe
from flows.pages.progress_log import ProgressLog
from flows.pages.stage_page import working_page
from flows.plan import plan
from flows.terminal import describe_progress
from lightgen_core.data.batches import TokenSource
from lightgen_core.report.charts import loss_curve as chart
from storage.open_store import open_store
from storage.tables import read_table
from tasks.config.settings import Settings
from tasks.config.validation import Validation
from tasks.context.progress import Progress
from tasks.pretrain_validation import HELD_OUT_FILE, choose_held_out
from tasks.report_data import loss_curve
from tests.factories.made_stages import UNTIL_TOKENS, make_stages
from tests.support.contents import contents

pytestmark = [pytest.mark.slow(rank=18), pytest.mark.usefixtures("stages_on_one_thread")]

SMALL = (
    "captions.count=16",
    "synthesis.count=64",
    "pretrain.steps=8",
    "pretrain.batch_size=8",
    "pretrain.log_every=1",
    "pretrain.checkpoint_every=4",
    "evaluation.per_category=2",
)
WATCHED = (*SMALL, "pretrain.validation={rows: 10, every: 2}", "pretrain.keep_steps=[3,8]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a training that is watched, the artifacts of its recipe, and the ids of all rows that it saw."""
    store, seen, batch = open_store(str(tmp_path_factory.mktemp("validation"))), [], TokenSource.batch

    def record(self, *arguments):
        read = batch(self, *arguments)
        seen.extend(read.ids.tolist())
        return read

    TokenSource.batch = record
    try:
        artifacts = make_stages(store, load_recipe("smoke", WATCHED), *UNTIL_TOKENS, "pretrain")
    finally:
        TokenSource.batch = batch
    return store, artifacts, seen


class Interrupted(Exception):
    """Stands for a kill."""


def choose(captions, meanings, rows=1, seed=0):
    return choose_held_out(captions, meanings, Validation(rows=rows, seed=seed)).tolist()


def test_all_images_of_a_held_out_meaning_are_held_out():
    assert choose(["a", "b", "a", "c"], ["x", "x", "x", "y"], 1) in ([True, True, True, False], [False] * 3 + [True])


def test_a_caption_is_held_out_under_every_meaning_it_has():
    """Nothing else would tell a caption of training from a held-out one."""
    captions, meanings = ["One Cat", "one  cat", "two cats", "a dog"], ["x", "y", "y", "z"]
    found = {tuple(choose(captions, meanings, 1, seed)) for seed in range(20)}
    assert found == {(True, True, True, False), (False, False, False, True)}


def test_other_sets_of_images_give_up_the_same_meanings_first():
    few, many = [f"caption {number}" for number in range(20)], [f"caption {number}" for number in range(40)]
    held = {name for name, out in zip(few, choose(few, few, 5), strict=True) if out}
    among_many = {name for name, out in zip(many, choose(many, many, 20), strict=True) if out}
    assert len(held) == 5 and held <= among_many
    assert choose(few, few, 5, seed=1) != choose(few, few, 5)


def test_no_caption_or_meaning_put_aside_is_trained_on(made):
    """The training sees every other kept image."""
    _, artifacts, seen = made
    images = read_table(artifacts["synthesis"], "^images", ["id", "caption", "meaning"]).to_pylist()
    keep = read_table(artifacts["dedup"], "^keep").to_pylist()
    held = read_table(artifacts["pretrain"], HELD_OUT_FILE).to_pylist()
    trained = [row for row in images if row["id"] in seen]
    assert len(held) >= 10 and len(held) > len({row["caption"] for row in held}), "some captions have several images"
    for name in ("id", "caption", "meaning"):
        assert not {row[name] for row in trained} & {row[name] for row in held}
    kept = {row["id"] for row in keep if row["kept"]}
    assert {row["id"] for row in trained} == kept - {row["id"] for row in held}
    counts = artifacts["pretrain"].manifest().counts
    assert (counts["held_out"], counts["rows"]) == (len(held), len(kept) - len(held))


def test_log_manifest_and_curve_hold_the_held_out_loss(made):
    pretrain = made[1]["pretrain"]
    rows = json.load(pretrain.open("log.json"))
    found = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert list(found) == [2, 4, 6, 8] and pretrain.manifest().metrics["validation_loss"] == found[8]
    curve = loss_curve(pretrain)
    steps, losses = curve.sparse["held_out"]
    assert steps.tolist() == list(found) and losses.tolist() == list(found.values())
    assert ">held out<" in str(chart(curve)) and "held out: the averaged weights" in curve.meaning


def test_a_resumed_training_ends_with_the_same_bytes(made):
    """The kill comes after a kept student and two held-out losses, one of them after the last checkpoint."""
    store, artifacts, _ = made
    pretrain, expected, losses = artifacts["pretrain"], contents(artifacts["pretrain"]), []
    planned = plan(load_recipe("smoke", WATCHED), store).stages["pretrain"]
    pretrain.remove()

    def kill(progress):
        losses.append(progress.metrics.get("validation_loss"))
        if progress.done == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        planned.stage.run(planned.recipe, Settings(), planned.inputs, planned.artifact, on_progress=kill)
    assert [loss is not None for loss in losses] == [False, True, False, True, False, True, False]
    planned.stage.run(planned.recipe, Settings(), planned.inputs, planned.artifact)
    assert contents(planned.artifact) == expected


def test_a_kept_student_is_that_of_a_training_stopped_there(made):
    store, artifacts, _ = made
    stopped = [line.replace("steps=8", "steps=3").replace("[3,8]", "[]") for line in WATCHED]
    short = make_stages(store, load_recipe("smoke", stopped), "pretrain")["pretrain"]
    kept = artifacts["pretrain"]
    for name in ("ema.safetensors", "config.json"):
        assert kept.open(f"student-000003/{name}").read() == short.open(f"student/{name}").read()
        assert kept.open(f"student-000008/{name}").read() == kept.open(f"student/{name}").read()
    assert not kept.names("^student-.*/model.safetensors"), "half the disk"


def test_each_checkpoint_is_scored_with_its_own_student(made):
    """The last one's images are those of the student as it ends; they lie beside the same prompts."""
    store, artifacts, _ = made
    axes = [{"axis": "checkpoints", "values": [3, 8]}]
    request = validate_ablation("smoke", axes, 1, str(store.uri), WATCHED)
    assert request.runs[0].artifacts["pretrain"].key == artifacts["pretrain"].key
    alone = validate_ablation("smoke", [{"axis": "iterations", "values": [8]}], 1, str(store.uri), WATCHED)
    for planned in (*request.chosen, *alone.chosen[:-1]):
        planned.stage.run(planned.recipe, request.settings, planned.inputs, planned.artifact)
    first, last, plain = (
        read_table(run.artifacts["evaluation"], "^samples").to_pylist() for run in (*request.runs, *alone.runs)
    )
    assert last == plain
    assert [row["caption"] for row in first] == [row["caption"] for row in plain]
    assert [row["seed"] for row in first] == [row["seed"] for row in plain] and first != plain
    results = json.load(request.last.artifact.open("results.json"))
    assert [(point["values"], point["data"]["steps"]) for point in results["points"]] == [
        ({"checkpoints": 3}, 3),
        ({"checkpoints": 8}, 8),
    ]


def test_a_set_that_would_be_held_out_whole_is_refused(made):
    store = made[0]
    recipe = load_recipe("smoke", [*SMALL, "pretrain.validation.rows=63"])
    with pytest.raises(ValueError, match=r"rows is 63.*of \d+ images that dedup keeps none would be left"):
        make_stages(store, recipe, "pretrain")


def test_terminal_and_live_page_show_the_newest_held_out_loss():
    log = ProgressLog()
    log(Progress(1, 2, "steps", metrics={"loss": 1.0, "validation_loss": 0.75}))
    log(Progress(2, 2, "steps", metrics={"loss": 0.5}))
    page = working_page("pretrain", "store/pretrain/1", log)
    assert "validation loss | 0.75" in " ".join(page.split()).lower()
    assert describe_progress(Progress(2, 2, "steps", metrics={"loss": 0.5}), "", 0.75) == (
        "2 of 2 steps, loss 0.5, held out 0.75"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain.validation.every=3", "validation.every 3 is no multiple of log_every 5"),
        ("pretrain.keep_steps=[20,10]", "expected ascending steps up to the last, 40"),
        ("pretrain.keep_steps=[41]", "expected ascending steps up to the last, 40"),
        ("evaluation.checkpoint=10", r"evaluation.checkpoint is 10, pretrain.keep_steps are \[\]"),
    ],
)
def test_steps_that_do_not_fit_are_refused(line, message):
    with pytest.raises(Exception, match=message):
        load_recipe("smoke", [line])


def test_keys_of_recipes_without_them_stay():
    recipe = load_recipe("smoke")
    sections = recipe.model_dump(mode="json")
    assert not {"validation", "keep_steps"} & sections["pretrain"].keys() and "checkpoint" not in sections["evaluation"]
    default = plan(recipe, open_store("/nowhere")).stages["pretrain"]
    assert [given.stage for given in default.inputs] == ["tokens", "dedup"]
    watched = plan(load_recipe("smoke", WATCHED), open_store("/nowhere")).stages["pretrain"]
    assert [given.stage for given in watched.inputs] == ["tokens", "dedup", "synthesis"]
    assert np.all([watched.artifact.key != default.artifact.key])
