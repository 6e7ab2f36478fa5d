"""The report's parts on the last student, from an evaluation's samples."""

import numpy as np
import pyarrow as pa
import pytest

from lightgen_core.images.codec import encode_png
from lightgen_core.scene.grammar import parse
from lightgen_core.scene.render import render
from storage.open_store import open_store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.evaluation import SCHEMA
from tasks.report_inputs import RunArtifacts
from tasks.report_student import GRID, failures, sample_grid, unmeasured
from tasks.stage import stage

RECIPE = Recipe(name="test")
ASKED = ("three stars", "a red circle", "two circles")
DRAWN = ("four stars", "a red circle", "two circles")
"""Failures in the report: images that the student draws instead of what the captions ask for."""


def samples(images=2, prompts=3):
    rows = []
    for student in ("pretrain", "dpo"):
        for prompt in range(prompts):
            asked, drawn = ASKED[prompt % 3], DRAWN[prompt % 3]
            for image in range(images):
                pixels = render(parse(drawn), RECIPE.world, np.random.default_rng(prompt))
                rows.append(
                    {
                        "id": len(rows),
                        "student": student,
                        "prompt": prompt,
                        "category": parse(asked).category,
                        "caption": asked,
                        "meaning": asked,
                        "seed": 1000 + len(rows),
                        "image": {"bytes": encode_png(pixels), "path": None},
                        "correct": asked == drawn or image == 1,
                    }
                )
    return rows


@pytest.fixture
def run_of(tmp_path):
    def run(rows, judge="the scene detector", recipe=RECIPE):
        @stage(version=len(rows), config_sections=())
        def evaluation(ctx):
            half = len(rows) // 2
            for number, part in enumerate((rows[:half], rows[half:])):
                ctx.write_table(f"samples-{number}.parquet", pa.Table.from_pylist(part, SCHEMA))
            ctx.metrics = {"judge": judge}

        artifact = evaluation.artifact(recipe, open_store(str(tmp_path / f"{len(rows)}-{judge}")), ())
        evaluation.run(recipe, Settings(device="cpu", threads=1), (), artifact)
        return RunArtifacts.of([artifact], recipe)

    return run


def test_the_grid_takes_every_nth_sample_of_the_last_student(run_of):
    grid = sample_grid(run_of(samples(images=2, prompts=60)))
    assert (grid.student, grid.total, grid.every, len(grid.images)) == ("dpo", 120, 3, 40)
    assert [each.seed for each in grid.images] == list(range(1120, 1240, 3))
    assert len(grid.images) <= GRID


def test_a_wrong_caption_has_its_score_and_what_was_found(run_of):
    found = failures(run_of(samples()))
    assert (found.prompts, found.wrong) == (3, 1)
    assert [(each.category, each.score) for each in found.worst] == [("counting", 0.5)]
    assert [(each.seed, each.correct) for each in found.worst[0].images] == [(1006, False), (1007, True)]
    assert found.worst[0].images[0].found.startswith("4 ")


def test_confusions_read_every_sample_of_the_last_student(run_of):
    matrices = {matrix.title: matrix for matrix in failures(run_of(samples())).confusions}
    count = matrices["count"]
    assert (count.asked, count.found, count.counts) == (
        ("two", "three"),
        ("two", "three", "four"),
        ((2, 0, 0), (0, 0, 2)),
    )
    assert matrices["colour"].counts == ((2,),)


def test_of_equally_wrong_captions_each_category_comes_in_turn(run_of):
    rows = [row | {"correct": False} for row in samples(images=1, prompts=12)]
    worst = failures(run_of(rows)).worst
    assert [each.category for each in worst] == ["counting", "colors"] * 4
    assert len({each.images[0].seed for each in worst}) == 8


def test_without_a_judge_there_are_no_failures(run_of):
    recipe = Recipe(name="test", evaluation={"benchmark": "prompts"})
    run = run_of([row | {"correct": None} for row in samples()], judge=None, recipe=recipe)
    assert failures(run) is None
    assert len(sample_grid(run).images) == 6


def test_what_a_run_does_not_measure_names_a_command():
    commands = [each.command for each in unmeasured(RECIPE, previews=True)]
    assert commands[1] == "lightgen ablate test --axis sampler.guidance_scale --values 2,4,8"
    assert "lightgen run test --set pretrain.previews=8" not in commands
    assert unmeasured(RECIPE, previews=False)[0].command == "lightgen run test --set pretrain.previews=8"


@pytest.mark.parametrize(("images", "rows"), [(40, 2), (100_000, 256)])
def test_the_held_out_loss_is_switched_on_by_the_command(images, rows):
    recipe = Recipe(name="test", synthesis={"count": images})
    (row,) = [each for each in unmeasured(recipe, previews=True) if each.name.startswith("loss on held-out images")]
    field, value = row.command.removeprefix("lightgen run test --set ").split("=")
    assert (field, value) == ("pretrain.validation.rows", str(rows))
    changed = Recipe(name="test", pretrain={"validation": {"rows": rows}})
    assert not [each for each in unmeasured(changed, previews=True) if each.name.startswith("loss on held-out images")]
