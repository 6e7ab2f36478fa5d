"""Rounds of preference tuning: each is an artifact of its own, and more of them leave the earlier ones alone."""

import json

import numpy as np
import pytest
import torch

from flows.commands.estimate import Rates, estimate
from flows.commands.lineage import trace_lineage
from flows.distill import ALL_NAMES, NAMES
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan, require_inputs
from flows.selection import select
from lightgen_core.model.save import load_student
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from storage.tables import read_table
from tasks.average import average
from tasks.config.average import Average
from tasks.config.settings import Settings
from tests.factories.made_stages import make_stages, make_until
from tests.support.contents import contents
from tests.support.stores import commit

SMALL = (
    "captions.count=48",
    "synthesis.count=64",
    "synthesis.shard_size=32",
    "dedup.clusters=4",
    "pretrain.steps=10",
    "pairs.count=8",
    "pairs.shard_size=5",
    "pairs.kind=ranked",
    "pairs.per_caption=2",
    "pairs.candidates=3",
    "pairs.scorer=clip",
    "pairs.margin=0.0001",
    "pairs.held_out={kind: detector}",
    "dpo.steps=4",
    "evaluation.per_category=2",
    "evaluation.shard_size=9",
    "evaluation.resamples=50",
)


def recipe_of(*changes: str):
    return load_recipe("smoke", [*SMALL, *changes])


def labels(*changes: str) -> list[str]:
    return list(plan(recipe_of(*changes), open_store("/nowhere")).stages)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def two(store):
    """Two rounds and their control, with all artifacts by label."""
    recipe = recipe_of("dpo.rounds=2", "dpo.objective=nft", "dpo.control=sft")
    return recipe, make_until(store, recipe)


def test_rounds_and_the_control_are_stages_of_the_plan():
    before, after = list(NAMES[:6]), ["evaluation", "report"]
    assert labels() == list(NAMES)
    assert labels("dpo.rounds=2") == [*before, "pairs", "dpo", "pairs-2", "dpo-2", *after]
    assert labels("dpo.control=sft") == [*before, "pairs", "dpo", "dpo-sft", *after]
    assert labels("dpo.rounds=2", "dpo.control=sft", "dpo.objective=nft") == [
        *before,
        *("pairs", "dpo", "pairs-2", "dpo-2"),
        *("dpo-sft", "pairs-sft-2", "dpo-sft-2"),
        *after,
    ]


def test_the_mean_over_rounds_leaves_the_rounds_alone():
    given = ("dpo.rounds=3", "dpo.control=sft", "dpo.objective=nft")
    store = open_store("/nowhere")
    plain, mean, last = (plan(recipe_of(*given, *more), store) for more in ((), ("average={}",), ("average.rounds=2",)))
    added = {"average", "average-sft"}
    assert set(mean.stages) - set(plain.stages) == added and list(mean.stages)[-2:] == ["evaluation", "report"]
    changed = {label for label in plain.artifacts if mean.artifacts[label].key != plain.artifacts[label].key}
    assert changed == {"evaluation", "report"}
    assert mean.inputs["average"] == ("dpo", "dpo-2", "dpo-3") and mean.inputs["average-sft"][0] == "dpo-sft"
    assert last.inputs["average"] == ("dpo-2", "dpo-3")
    assert mean.inputs["evaluation"] == ("pretrain", "average", "average-sft")
    assert "average" not in plan(recipe_of("average={}"), store).stages, "the mean of one round is that round"


def test_a_control_may_have_a_learning_rate_of_its_own():
    """Its stages change, those of the student beside it do not; as the objective it is the same student."""
    given = ("dpo.rounds=2", "dpo.control=sft", "dpo.objective=nft")
    same, own = (
        plan(recipe_of(*given, *more), open_store("/nowhere")) for more in ((), ("dpo.control_learning_rate=3e-6",))
    )
    changed = {label for label, artifact in own.artifacts.items() if artifact.key != same.artifacts[label].key}
    assert changed == {"dpo-sft", "pairs-sft-2", "dpo-sft-2", "evaluation", "report"}
    rates = {label: own.stages[label].recipe.dpo.optimizer.learning_rate for label in ("dpo-2", "dpo-sft", "dpo-sft-2")}
    assert rates == {"dpo-2": 1e-5, "dpo-sft": 3e-6, "dpo-sft-2": 3e-6}
    instead = plan(recipe_of(*given, "dpo.control_learning_rate=3e-6", "dpo.objective=sft"), open_store("/nowhere"))
    assert instead.artifacts["dpo"].key == own.artifacts["dpo-sft"].key
    assert instead.stages["dpo-2"].recipe.dpo == own.stages["dpo-sft-2"].recipe.dpo


def test_a_learning_rate_of_no_control_is_refused():
    with pytest.raises(UserError, match="control_learning_rate: there is no control"):
        recipe_of("dpo.control_learning_rate=3e-6")


def test_more_rounds_leave_the_earlier_ones_alone(tmp_path):
    one, four, six = (
        plan(recipe_of(f"dpo.rounds={rounds}"), open_store(str(tmp_path))).artifacts for rounds in (1, 4, 6)
    )
    shared = [name for name in four if name not in ("evaluation", "report")]
    assert [six[name].key for name in shared] == [four[name].key for name in shared]
    assert len(six) == len(four) + 4 == len(one) + 10
    assert len({artifact.path for artifact in six.values()}) == len(six)
    assert one["dpo"].key == six["dpo"].key


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({"only": "pairs"}, ["pairs", "pairs-2", "pairs-3"]),
        ({"from_stage": "dpo", "until": "evaluation"}, ["dpo", "pairs-2", "dpo-2", "pairs-3", "dpo-3", "evaluation"]),
        ({"from_stage": "pretrain", "until": "pairs"}, ["pretrain", "pairs", "dpo", "pairs-2", "dpo-2", "pairs-3"]),
        ({"only": "report"}, ["report"]),
    ],
)
def test_a_range_of_stages_reaches_over_all_rounds(tmp_path, selection, chosen):
    planner = plan(recipe_of("dpo.rounds=3"), open_store(str(tmp_path)))
    assert planner.chosen(select(**selection)) == chosen


def test_a_missing_round_is_named_with_the_stage_to_run(two):
    recipe, made = two
    planner = plan(recipe.model_copy(update={"dpo": recipe.dpo.model_copy(update={"rounds": 3})}), made["dpo"].store)
    with pytest.raises(UserError, match=r"(?s)^dpo-3 needs pairs-3 .*--until pairs;"):
        require_inputs(planner, select(only="dpo"))
    with pytest.raises(UserError, match=r"(?s)^evaluation needs dpo-3 .*--until dpo;"):
        require_inputs(planner, select(only="evaluation"))


def test_each_round_starts_from_the_student_of_the_one_before(two):
    _, made = two
    lineage = {label: made[label].manifest().inputs for label in made}
    assert lineage["pairs-2"]["dpo"] == made["dpo"].key and "pretrain" not in lineage["pairs-2"]
    assert lineage["dpo-2"] == {"dpo": made["dpo"].key, "pairs-2": made["pairs-2"].key}
    assert lineage["dpo-sft"] == {"pretrain": made["pretrain"].key, "pairs": made["pairs"].key}
    assert lineage["dpo-sft-2"] == {"dpo-sft": made["dpo-sft"].key, "pairs-sft-2": made["pairs-sft-2"].key}
    assert lineage["evaluation"] == {name: made[name].key for name in ("pretrain", "dpo-2", "dpo-sft-2")}
    log = json.load(made["dpo-2"].open("log.json"))
    assert log[0]["winner_delta"] == pytest.approx(0, abs=1e-3), "policy and reference start equal"


def test_rounds_draw_other_captions_and_seeds(two):
    _, made = two
    first, second = (read_table(made[label], "^samples").to_pylist() for label in ("pairs", "pairs-2"))
    assert len(first) == len(second) == 24
    assert not {row["seed"] for row in first} & {row["seed"] for row in second}
    assert {row["caption"] for row in first} != {row["caption"] for row in second}


def test_the_control_is_scored_beside_both_students(two):
    _, made = two
    metrics = made["evaluation"].manifest().metrics
    assert list(metrics["scores"]) == ["pretrain", "sft", "dpo", "shuffled"]
    assert list(metrics["differences"]) == ["sft-pretrain", "dpo-pretrain", "dpo-sft"]
    rows = read_table(made["evaluation"], "^samples")
    verdicts = {
        name: np.array([row["correct"] for row in rows.to_pylist() if row["student"] == name]) * 1.0
        for name in ("pretrain", "sft", "dpo")
    }
    for pair, table in metrics["differences"].items():
        later, earlier = pair.split("-")
        assert table["overall"]["value"] == pytest.approx((verdicts[later] - verdicts[earlier]).mean())
    seeds = [row["seed"] for row in rows.to_pylist()]
    assert seeds[:12] == seeds[12:24] == seeds[24:], "the same seeds for all"


def test_the_report_has_the_last_rounds_student_and_all_counts(two):
    _, made = two
    report, last = made["report"], made["dpo-2"]
    assert report.open("model/ema.safetensors").read() == last.open("student/ema.safetensors").read()
    ledger = json.load(report.open("ledger.json"))
    assert [row["stage"] for row in ledger] == [label for label in made if label != "report"]
    page = report.open("report.html").read().decode()
    assert "SFT control" in page and "Differences on the same captions and seeds" in page


def test_a_file_of_samples_can_be_drawn_again_bit_for_bit(two):
    """Of the second round, by the student that its lineage names; a sample alone is the same but for rounding."""
    from lightgen_core.encoders.dtypes import to_bytes
    from lightgen_core.sampling.text_to_image import TextToImage

    recipe, made = two
    student = TextToImage.load(made["dpo"].store.local_path(made["dpo"].path) / "student", torch.device("cpu"))
    rows = read_table(made["pairs-2"], "^samples-00001").to_pylist()
    assert len(rows) == 9
    drawn = student.sample([row["caption"] for row in rows], [row["seed"] for row in rows], sampler=recipe.sampler)
    assert [to_bytes(latents, "float16") for latents in drawn.latents] == [row["latents"] for row in rows]
    alone = student.sample([rows[4]["caption"]], [rows[4]["seed"]], sampler=recipe.sampler)
    assert (alone.latents[0] - drawn.latents[4]).abs().max() < 2e-3


def test_ranked_pairs_are_samples_of_the_store(two):
    recipe, made = two
    samples = {(row["id"], row["sample"]): row for row in read_table(made["pairs"], "^samples").to_pylist()}
    pairs = read_table(made["pairs"], "^pairs").to_pylist()
    counts = made["pairs"].manifest().counts
    assert counts["rows"] == counts["ranked"] == len(pairs) > 8
    for pair in pairs:
        winner, loser = samples[pair["id"], pair["winner_sample"]], samples[pair["id"], pair["loser_sample"]]
        assert winner["score"] - loser["score"] >= recipe.pairs.margin
        assert (pair["winner"], pair["loser"]) == (winner["latents"], loser["latents"])
    each = [len([pair for pair in pairs if pair["id"] == id_]) for id_ in {pair["id"] for pair in pairs}]
    assert max(each) == recipe.pairs.per_caption


def test_what_the_samples_say_is_compared_with_the_first_round(two):
    _, made = two
    first, second = (made[label].manifest().metrics for label in ("pairs", "pairs-2"))
    assert first["samples"]["held_out"] == 0, "an untrained student draws nothing right"
    assert first["first_round"] == first["samples"] == second["first_round"] != second["samples"]
    scores = read_table(made["pairs-2"], "^samples")["score"].to_pylist()
    assert second["samples"]["score"] == pytest.approx(np.mean(scores))
    assert made["dpo-2"].manifest().metrics["first_round"] == first["samples"]


def test_a_round_that_is_made_again_has_the_same_bytes(two, store):
    recipe, made = two
    before = {label: contents(made[label]) for label in ("pairs-2", "dpo-2")}
    for label in before:
        made[label].remove()
    make_stages(store, recipe, "pairs", "dpo")
    assert {label: contents(made[label]) for label in before} == before


@pytest.fixture(scope="module")
def averaged(two, store):
    """The same rounds and control, and their means."""
    recipe, _ = two
    return make_stages(store, recipe.model_copy(update={"average": Average()}), *ALL_NAMES)


def folder_of(artifact, name):
    return artifact.store.local_path(artifact.path) / name


def test_the_mean_of_two_rounds_is_that_of_their_weights(averaged):
    students = {label: load_student(folder_of(averaged[label], "student")) for label in ("dpo", "dpo-2", "average")}
    first, second, mean = (student.state_dict() for student, _ in students.values())
    assert any(not first[name].equal(second[name]) for name in first)
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-8)
    raw, _ = load_student(folder_of(averaged["average"], "student"), "raw")
    parts = [load_student(folder_of(averaged[label], "student"), "raw")[0].state_dict() for label in ("dpo", "dpo-2")]
    name, value = next(iter(raw.state_dict().items()))
    torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2, rtol=1e-6, atol=1e-8)
    assert averaged["average"].manifest().counts["rows"] == 2


def test_the_mean_is_what_is_scored_reported_and_found(averaged, store):
    assert set(averaged["evaluation"].manifest().inputs) == {"pretrain", "average", "average-sft"}
    assert (
        contents(averaged["average"])["student/ema.safetensors"]
        == contents(averaged["report"])["model/ema.safetensors"]
    )
    lineage = trace_lineage(averaged["average-sft"])
    assert lineage.student == "sft" and {"dpo-sft", "dpo-sft-2", "pairs-sft-2"} <= set(lineage.manifests)
    assert trace_lineage(averaged["average"]).student == "dpo"


def test_a_round_without_a_step_has_no_part_in_the_mean(averaged, store, tmp_path):
    """A guard has left the student as it is: it would count twice."""
    inputs = [averaged["dpo"], averaged["dpo-2"]]
    kept = Artifact(open_store(str(tmp_path)), "dpo", "kept")
    for name in averaged["dpo"].names():
        if name != "manifest.json":
            kept.add(name, averaged["dpo"].open(name).read(), 0, {})
    commit(kept, steps=0)
    made = average.artifact(recipe_of(), store, (*inputs, kept))
    average.run(recipe_of(), Settings(), (*inputs, kept), made)
    assert contents(made)["student/ema.safetensors"] == contents(averaged["average"])["student/ema.safetensors"]


def test_the_mean_has_a_line_in_the_estimate():
    rounds = ("dpo.rounds=3", "dpo.control=sft", "dpo.objective=nft", "average={}")
    rows = {row["stage"]: row for row in estimate(recipe_of(*rounds), Rates())["stages"]}
    assert (rows["average"]["items"], rows["average"]["unit"], rows["average"]["flops"]) == (6, "students", 0)
    assert rows["average"]["bytes"] == 2 * rows["dpo"]["bytes"] / 6, "two students, of six rounds"
    assert "average" not in {row["stage"] for row in estimate(recipe_of("average={}"), Rates())["stages"]}


def test_an_evaluation_takes_over_what_another_sampled(store, two, caplog):
    """Of the same students: a shard that holds two of them is sampled again, and the rows are the same."""
    changes = ("dpo.rounds=2", "dpo.objective=nft", "evaluation.shard_size=8")
    with_control = make_until(store, recipe_of(*changes, "dpo.control=sft"))["evaluation"]
    caplog.set_level("INFO")
    alone = make_until(store, recipe_of(*changes))["evaluation"]
    rows = [read_table(each, "^samples").to_pylist() for each in (with_control, alone)]
    assert rows[1] == [row for row in rows[0] if row["student"] != "sft"]
    assert "2 of 3 shards are in other artifacts already" in caplog.text
    assert alone.manifest().metrics["scores"]["pretrain"] == with_control.manifest().metrics["scores"]["pretrain"]
