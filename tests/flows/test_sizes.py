"""Sizes that follow from components, and contradictions that are told before anything runs."""

import re

import pytest

from flows.commands.doctor import check_machine
from flows.commands.estimate import Rates, estimate
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from flows.sizes import check_sizes, student_config
from lightgen_core.model.presets import PRESETS
from storage.open_store import open_store
from tasks.config.settings import Settings


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("demo", (64, 128, 3)),
        ("scene-64", (64, 128, 4)),
        ("lightgen-0.7b-1024", (64, 4096, 16)),
        ("lightgen-0.3b-dcae", (32, 1024, 16)),
    ],
)
def test_widths_and_grid_follow_from_the_components(name, sizes):
    config = student_config(load_recipe(name))
    assert (config.token_width, config.text_width, config.position_grid) == sizes


def test_a_student_is_tiny_where_nothing_is_said():
    recipe = load_recipe("smoke", {"pretrain": {"model": {"width": 48}}})
    assert recipe.pretrain.model.preset == "tiny"
    assert recipe.pretrain.head.objective == "v"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_may_be_named_alone_and_changed(preset):
    recipe = load_recipe("demo", [f"pretrain.model={preset}", "pretrain.model.dropout=0.3"])
    blocks, head = PRESETS[preset]
    expected = blocks | {"dropout": 0.3}
    assert {field: getattr(recipe.pretrain.model, field) for field in expected} == expected
    assert {field: getattr(recipe.pretrain.head, field) for field in head} == head


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.model.text_width=4096", "text_width is 4096, but tokens.text_encoder gives 128"),
        ("pretrain.model.token_width=16", "token_width is 16, but tokens.codec and tokens.patch give 64"),
        ("tokens.patch=4", "48 x 48 px is not made of whole tokens of 32 px"),
        ("world.image_size=40", "world.image_size: an image of 40 x 40 px is not made of whole tokens of 16 px"),
        ("tokens.latents=moments", "latents is moments, but tokens.codec zoo:autoencoder is an AutoencoderDC"),
        ("tokens.text_layer=7", "tokens.text_layer is 7, but tokens.text_encoder zoo:t5 has 4 layers"),
        ("tokens.text_layer=-6", "tokens.text_layer is -6, .* has 4 layers: states -5 to 4"),
        ("tokens.sizes=[40]", "tokens.sizes: an image of 40 x 40 px is not made of whole tokens of 16 px"),
    ],
)
def test_a_contradiction_is_told_by_plan_estimate_and_doctor(tmp_path, override, message):
    recipe = load_recipe("demo", [override])
    with pytest.raises(UserError, match=message):
        plan(recipe, open_store(str(tmp_path)))
    with pytest.raises(UserError, match=message):
        estimate(recipe, Rates())
    (told,) = (row for row in check_machine(recipe, Settings(store=str(tmp_path))) if row["state"] == "missing")
    assert (told["check"], told["word"]) == ("student", "contradiction")
    assert re.search(message, told["found"])


@pytest.mark.parametrize(
    ("synthesis", "message"),
    [
        ({"teacher": "files", "files": {"path": "here", "size": 50}}, "synthesis.files.size: an image of 50 x 50 px"),
        ({"teacher": "endpoint", "endpoint": {"model": "m", "size": 40}}, "synthesis.endpoint.size: .* 40 x 40 px"),
        (
            {
                "teachers": [
                    {"name": "drawn", "teacher": "scene"},
                    {"name": "found", "teacher": "files", "files": {"path": "here", "size": 64}},
                ]
            },
            "world.image_size gives .* 48 x 48 px, synthesis.teachers.1.files.size of 64 x 64 px, .* set tokens.sizes",
        ),
    ],
)
def test_sizes_of_teachers_are_compared_with_the_tokens(synthesis, message):
    with pytest.raises(UserError, match=message):
        check_sizes(load_recipe("demo", {"synthesis": synthesis}))
    check_sizes(load_recipe("demo", {"synthesis": synthesis, "tokens": {"sizes": [64]}}))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="'tiny', 'small', 'base', 'large' or 'huge'"):
        load_recipe("demo", ["pretrain.model=medium"])
