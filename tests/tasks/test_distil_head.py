"""The stage distil_head: off it changes nothing, on it adds one student, scored, exported and resumed as any other."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from flows.commands.estimate import Rates, estimate
from flows.commands.export import export
from flows.distill import ALL_NAMES, NAMES
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from flows.selection import select
from lightgen_core.sampling.load import load_text_to_image
from storage.open_store import open_store
from storage.store import Store
from storage.tables import read_table
from tests.factories.made_stages import make_stages
from tests.support.contents import contents

pytestmark = pytest.mark.slow(rank=18)

SMALL = (
    "captions.count=48",
    "synthesis.count=64",
    "synthesis.shard_size=64",
    "dedup.clusters=4",
    "dedup.threshold=0.9",
    "pretrain.steps=10",
    "pairs.count=8",
    "pairs.shard_size=8",
    "dpo.steps=4",
    "evaluation.per_category=1",
    "evaluation.resamples=50",
)
WITH_HEAD = [*NAMES[:8], "distil_head", *NAMES[8:]]
HEAD = "distil_head={batch_size: 8, steps: 8, log_every: 4, checkpoint_every: 4}"


def recipe_of(*changes: str):
    return load_recipe("smoke", [*SMALL, *changes])


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def made(store):
    """All artifacts of a recipe with a few-step head, by label."""
    return make_stages(store, recipe_of(HEAD), *ALL_NAMES)


def folder_of(artifact, name):
    return artifact.store.local_path(artifact.path) / name


def test_without_its_section_the_pipeline_has_ten_stages():
    without, with_head = (plan(recipe_of(*on), open_store("/nowhere")).artifacts for on in ((), (HEAD,)))
    assert list(without) == list(NAMES) and "distil_head" not in recipe_of().model_dump()
    assert list(with_head) == WITH_HEAD
    assert [with_head[name].key for name in NAMES[:8]] == [without[name].key for name in NAMES[:8]]
    assert with_head["evaluation"].key != without["evaluation"].key


def test_a_stage_that_a_recipe_lacks_is_named_with_its_switch():
    planner = plan(recipe_of(), open_store("/nowhere"))
    with pytest.raises(UserError, match=r"^smoke has no stage distil_head; switch it on .*--set 'distil_head=\{\}'"):
        planner.chosen(select(only="distil_head"))
    assert planner.chosen(select(from_stage="distil_head")) == ["evaluation", "report"]


def test_a_recipe_whose_sampler_is_few_step_is_refused():
    with pytest.raises(UserError, match=r"head_sampler is few_step, which is learned from the full sampler"):
        recipe_of("sampler.head_sampler=few_step")


def test_a_ddpm_teacher_has_a_student_of_one_step():
    ddpm = ("pretrain.head.objective=ddpm", "sampler.head_sampler=ddim")
    recipe = recipe_of(HEAD, *ddpm)
    config = recipe.distil_head.config(recipe.pretrain.head, recipe.sampler)
    assert (config.head.steps, config.head.objective) == (1, "v")
    with pytest.raises(UserError, match=r"distil_head\.head_steps is 2, but pretrain\.head\.objective is ddpm"):
        recipe_of(HEAD, "distil_head.head_steps=2", *ddpm)


def test_its_sampler_is_the_recipes_but_for_what_its_section_names():
    """The falling steps of the full sampler are its own."""
    fast = ("distil_head.iterations=4", "distil_head.head_steps_last=1", "distil_head.head_steps_last_at=0.2")
    falling = ("sampler.head_steps=6", "sampler.head_steps_last=3", "sampler.head_steps_last_at=0.5")
    samplers = []
    for changes in ((), fast):
        recipe = recipe_of(HEAD, *falling, *changes)
        samplers.append(recipe.distil_head.few_step_sampler(recipe.pretrain.head, recipe.sampler))
    plain = recipe.sampler.model_copy(
        update={"head_sampler": "few_step", "head_steps": 2, "head_steps_last": None, "head_steps_last_at": 1.0}
    )
    assert samplers[0] == plain
    changed = {"iterations": 4, "head_steps_last": 1, "head_steps_last_at": 0.2}
    assert samplers[1] == plain.model_copy(update=changed)
    guided = recipe_of(HEAD, "distil_head.guidance_scale=5", "distil_head.temperature=0.5", *falling)
    noise = {"guidance_scale": 5.0, "temperature": 0.5}
    assert guided.distil_head.few_step_sampler(guided.pretrain.head, guided.sampler) == plain.model_copy(update=noise)
    teacher = guided.distil_head.config(guided.pretrain.head, guided.sampler).sampler
    assert teacher == guided.sampler.model_copy(update=noise)
    with pytest.raises(UserError, match="head_steps_last 3 exceeds the 2 evaluations that the few-step student learns"):
        recipe_of(HEAD, "distil_head.head_steps_last=3")


def test_the_student_is_the_last_rounds_with_one_file_more(made):
    before, after = (contents(made[label]) for label in ("dpo", "distil_head"))
    for name in ("student/model.safetensors", "student/ema.safetensors"):
        assert after[name] == before[name]
    assert {name for name in after if name.startswith("student/")} == {
        *(name for name in before if name.startswith("student/")),
        "student/few_step.safetensors",
    }
    counts = made["distil_head"].manifest().counts
    kept = made["dedup"].manifest().counts["kept"]
    assert (counts["rows"], counts["steps"]) == (kept, 8) and kept < 64, "images that dedup drops are not seen"
    log = json.load(made["distil_head"].open("log.json"))
    assert [row["step"] for row in log] == [4, 8] and all(0 < row["loss"] < 2 for row in log)


def test_it_is_scored_beside_the_other_students(made):
    metrics = made["evaluation"].manifest().metrics
    assert list(metrics["scores"]) == ["pretrain", "sft", "dpo", "few_step", "shuffled"]
    assert list(metrics["differences"]) == ["dpo-pretrain", "few_step-pretrain", "few_step-dpo"]
    rows = read_table(made["evaluation"], "^samples").to_pylist()
    seeds = {name: [row["seed"] for row in rows if row["student"] == name] for name in ("dpo", "few_step")}
    assert seeds["dpo"] == seeds["few_step"] and len(seeds["dpo"]) == 6
    assert "Few-step head" in made["report"].open("report.html").read().decode()


def test_the_reports_student_samples_with_it_by_default(made, tmp_path):
    """And so does its export; another head_sampler gives the images of the full sampler."""
    tuned, head = (
        load_text_to_image(folder, torch.device("cpu"))
        for folder in (folder_of(made["dpo"], "student"), folder_of(made["report"], "model"))
    )
    sampler = recipe_of().sampler
    assert head.sampler == sampler.model_copy(update={"head_sampler": "few_step", "head_steps": 2})
    images = {
        "few_step": head.sample(["a red circle"], [1]).images,
        "full": head.sample(["a red circle"], [1], sampler=sampler).images,
        "tuned": tuned.sample(["a red circle"], [1], sampler=sampler).images,
    }
    assert np.array_equal(images["full"], images["tuned"])
    export(folder_of(made["report"], "model"), tmp_path / "out")
    exported = load_text_to_image(tmp_path / "out", torch.device("cpu"))
    assert exported.sampler == head.sampler
    assert np.array_equal(exported.sample(["a red circle"], [1]).images, images["few_step"])


def test_made_again_without_its_files_it_has_the_same_bytes(made, store):
    artifact = made["distil_head"]
    before = contents(artifact)
    folder = artifact.store.local_path(artifact.path)
    for name in ("manifest.json", "student/few_step.safetensors"):
        (folder / name).unlink()
    make_stages(store, recipe_of(HEAD), "distil_head")
    assert contents(artifact) == before


def test_a_temperature_of_its_own_is_learned_and_sampled_with(made, store):
    with_own = recipe_of(f"{HEAD[:-1]}, temperature: 0.3}}")
    own = make_stages(store, with_own, "distil_head", "evaluation")
    saved, before = (
        load_text_to_image(folder_of(each["distil_head"], "student"), torch.device("cpu")) for each in (own, made)
    )
    assert (saved.sampler.temperature, before.sampler.temperature) == (0.3, recipe_of().sampler.temperature)
    weights = (each.few_step.state_dict()["head.out.weight"] for each in (saved, before))
    assert not torch.equal(*weights)
    (row,) = [row for row in read_table(own["evaluation"], "^samples").to_pylist() if row["student"] == "few_step"][:1]
    drawn = saved.sample([row["caption"]], [row["seed"]]).images
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), drawn[0])


def test_one_step_is_another_student_of_the_same_teacher(made, store):
    one = make_stages(store, recipe_of(f"{HEAD[:-1]}, head_steps: 1}}"), "distil_head")["distil_head"]
    assert one.key != made["distil_head"].key
    files = [{file.name: file.sha256 for file in each.manifest().files} for each in (made["distil_head"], one)]
    assert files[0]["student/ema.safetensors"] == files[1]["student/ema.safetensors"]
    assert files[0]["student/few_step.safetensors"] != files[1]["student/few_step.safetensors"]
    loaded = load_text_to_image(folder_of(one, "student"), torch.device("cpu"))
    assert loaded.sampler.head_steps == loaded.few_step.head.sizes.steps == 1


def test_its_cost_is_estimated():
    without, with_head = (estimate(recipe_of(*on), Rates()) for on in ((), (HEAD,)))
    assert [row["stage"] for row in without["stages"]] == list(NAMES)
    rows = {row["stage"]: row for row in with_head["stages"]}
    assert list(rows) == WITH_HEAD
    assert (rows["distil_head"]["items"], rows["evaluation"]["items"]) == (64, 18)
    drawn = [rows[name]["flops"] / rows[name]["items"] for name in ("pairs", "evaluation")]
    assert drawn[1] < drawn[0], "a third of the evaluation's samples are the few-step head's"
    trained = rows["pretrain"]["flops"] / rows["pretrain"]["items"]
    assert rows["distil_head"]["flops"] > 64 * trained / 2, "teacher's steps and training, of one noise"
