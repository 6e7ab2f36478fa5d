"""Recipes and the choice of stages: what is accepted, and how a mistake is explained."""

from typing import get_args

import pytest
import yaml

from flows.distill import ALL_NAMES
from flows.errors import UserError
from flows.load import load_recipe, recipe_names
from flows.selection import select
from tasks.config.recipe import Recipe
from tasks.config.settings import InvalidSettings, Settings


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_with_the_package_is_valid(name):
    assert load_recipe(name).name == name


def test_a_validation_of_all_images_is_refused():
    with pytest.raises(ValueError, match=r"pretrain.validation.rows is 48, and synthesis.count 48: none"):
        Recipe(name="x", synthesis={"count": 48}, pretrain={"validation": {"rows": 48}})
    Recipe(name="x", synthesis={"count": 49}, pretrain={"validation": {"rows": 48}})


def test_demo_and_smoke_always_exist():
    assert {"demo", "smoke"} <= set(recipe_names())


def every_field(model, path=""):
    for name, field in model.model_fields.items():
        if not hasattr(field.annotation, "model_fields"):
            yield f"{path}{name}", field
        for inner in (field.annotation, *get_args(field.annotation)):  # a section may be optional
            if hasattr(inner, "model_fields"):
                yield from every_field(inner, f"{path}{name}.")


def test_every_field_of_a_recipe_is_documented():
    assert [name for name, field in every_field(Recipe) if not field.description] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.stepz=5", r"pretrain.stepz: unknown field. Did you mean 'steps'\?"),
        ("steps=5", r"steps: unknown field. Did you mean pretrain.steps or dpo.steps or distil_head.steps\?"),
        ("pretrain.log_every=3", r"valid:\n  pretrain: checkpoint_every 10 is no multiple of log_every 3$"),
        ("pretain.steps=5", r"pretain: unknown field. Did you mean 'pretrain'\?"),
        ("pretrain.steps=many", "pretrain.steps: found 'many'; input should be a valid integer"),
        ("synthesis.files={pth: x}", r"synthesis.files.pth: unknown field. Did you mean 'path'\?"),
        ("dedup.threshold=1.5", "dedup.threshold: found 1.5; input should be less than or equal to 1"),
        ("captions.source=web", "captions.source: found 'web'; input should be 'scene'"),
        ("pretrain.model.heads=7", "width 48 is not a multiple of heads 7"),
        ("sampler.head_sampler=euler", "euler goes with flow"),
        ("evaluation.prompts=mine.txt", "prompts mine.txt go with benchmark geneval or prompts"),
        ("pretrain.mask.low=0.5", "pretrain.mask.low: unknown field. It is now called min_ratio"),
        ("dpo.optimizer.clip=1", "dpo.optimizer.clip: unknown field. It is now called max_grad_norm"),
        ("dpo.guard=both", "dpo.guard: unknown field. It is now called displacement_guard"),
        ("pretrain.keep=3", "pretrain.keep: unknown field. It is now called keep_checkpoints"),
        ("tokens.max_words=9", "tokens.max_words: unknown field. It is now called max_text_tokens"),
        ("scores_mean_nothing=true", "scores_mean_nothing: unknown field. It is now called smoke_test"),
        ("pretrain.optimizer.learning_rate=.inf", "learning_rate: found inf; input should be a finite number"),
        ("pretrain.optimizer.weight_decay=-.INF", "weight_decay: found -inf; input should be a finite number"),
        ("pretrain.mask.mean=.nan", "pretrain.mask.mean: found nan; input should be a finite number"),
        ("pretrain.optimizer.betas=[0.9, .nan]", "optimizer.betas.1: found nan; input should be a finite number"),
        ("dpo.beta=1e999", "dpo.beta: found inf; input should be a finite number"),
        ("captions.llm={model: m, request: {top_k: [.inf]}}", "request: found .*out of range float values"),
        ("captions.llm={model: m, request: {date: 2026-01-02}}", "request: found .*date is not JSON.*put it in quotes"),
        ("captions.count=true", "captions.count: found True; this field takes no booleans"),
        ("captions.count=yes", "captions.count: found 'yes'; input should be a valid integer"),
        ("dedup.threshold=true", "dedup.threshold: found True; this field takes no booleans"),
        ("tokens.sizes=[64, true]", r"tokens.sizes: found \[64, True\]; this field takes no booleans"),
        ("pretrain.steps=1.5", "pretrain.steps: found 1.5; input should be a valid integer"),
        ("smoke_test=2", "smoke_test: found 2; input should be a valid boolean"),
        ("pretrain={steps: 5, steps: 6}", "is not a YAML value"),
        ("seed", "not of the form section.field=value"),
        ("seed.value.deep=1", "'seed' is a value, not a section|seed"),
    ],
)
def test_a_mistake_names_the_field_its_value_and_the_expectation(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("smoke", [override])


def test_a_cached_null_text_wants_text_blocks_that_save_by_it():
    changes = ["sampler.null_text_every=2", "pretrain.model.text_self_attention=false"]
    with pytest.raises(UserError, match=r"null_text_every is 2, but without\s+pretrain.model.text_self_attention"):
        load_recipe("smoke", changes)
    assert "null_text_every" not in load_recipe("smoke").model_dump_json(), "keys of recipes without it stay"


def test_an_override_reaches_the_recipe():
    assert load_recipe("smoke", ["pretrain.steps=7", "dedup.threshold=0.5"]).pretrain.steps == 7


def test_an_unknown_recipe_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match=r"there is no recipe 'smok'. Did you mean 'smoke'\?"):
        load_recipe("smok")


def test_a_recipe_may_be_a_file_and_a_bad_file_is_explained(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"seed": 3}))
    assert (load_recipe(str(path)).name, load_recipe(str(path)).seed) == ("mine", 3)
    path.write_text("- a\n- list\n")
    with pytest.raises(UserError, match="holds list, not a mapping"):
        load_recipe(str(path))
    path.write_text("a: [unclosed")
    with pytest.raises(UserError, match=r"is not YAML: expected ',' or ']'.*, in line 1, column 13$"):
        load_recipe(str(path))
    path.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        load_recipe(str(path))


def test_a_file_that_is_no_recipe_is_not_read_aloud(tmp_path):
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = AKIAEXAMPLE\n")
    with pytest.raises(UserError) as told:
        load_recipe(str(path))
    assert "line 2" in str(told.value) and "AKIA" not in str(told.value) and "aws" not in str(told.value)


def test_a_recipe_cannot_be_changed_after_it_was_read():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("smoke").seed = 1


def test_a_range_of_stages_is_inclusive_at_both_ends():
    chosen = select(from_stage="dedup", until="pretrain").chosen
    assert chosen == {"dedup", "tokens", "pretrain"}
    assert select(only="dpo").chosen == {"dpo"}
    assert select().chosen == set(ALL_NAMES), "the plan leaves out stages that the recipe does not switch on"


def test_refresh_all_means_every_chosen_stage():
    assert select(until="synthesis", refresh=["all"]).refresh == {"captions", "synthesis"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": "tokns"}, r"no stage 'tokns'. Did you mean 'tokens'\?"),
        ({"only": "all"}, "no stage 'all'"),
        ({"refresh": ["pretrian"]}, "no stage 'pretrian'"),
        ({"only": "dpo", "until": "report"}, "--only runs one stage"),
        ({"from_stage": "dpo", "until": "tokens"}, "no stage is left"),
        ({"only": "dpo", "refresh": ["captions"]}, "captions names a stage that this run leaves out"),
    ],
)
def test_a_wrong_choice_of_stages_is_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        select(**arguments)


def test_a_renamed_setting_names_the_new_variable(monkeypatch):
    monkeypatch.setenv("LIGHTGEN_TRAIN__RECOMPUTE", "true")
    with pytest.raises(InvalidSettings, match=r"RECOMPUTE: .* it is now called ACTIVATION_CHECKPOINTING"):
        Settings()


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("seed: 1\npretrain: {steps: 5}\ncaptions:\npretrain: {batch_size: 5}\n", "pretrain", 4),
        ("pretrain:\n  steps: 5\n  optimizer:\n    betas: [0.9, 0.9]\n    betas: [0.8, 0.9]\n", "betas", 5),
        ("captions: {count: 5, 'count': 6}\n", "count", 1),
        ("captions:\n  llm:\n    model: m\n    request: {top_k: 1, top_k: 2}\n", "top_k", 4),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, text, key, line):
    (path := tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=f'mine.yaml is not YAML: found duplicate key "{key}", in line {line}, '):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("text", "count"),
    [("010", 10), ("0o10", 8), ("0x10", 16), ("1_000", 1000), ("1e3", 1000), ("'010'", 10), ("6.0", 6)],
)
def test_a_number_is_what_yaml_1_2_says(text, count):
    assert load_recipe("smoke", [f"captions.count={text}"]).captions.count == count


@pytest.mark.parametrize("text", ["true", "True", "yes", "on", "1"])
def test_a_switch_takes_any_word_for_yes(text):
    assert load_recipe("smoke", [f"tokens.flip={text}"]).tokens.flip is True


def test_sections_may_share_fields_by_anchor_and_merge(tmp_path):
    (path := tmp_path / "mine.yaml").write_text(
        "dpo: {steps: 7, mask: &m {min_ratio: 0.5}}\npretrain: {mask: {<<: *m, std: 1}}\n"
    )
    mask = load_recipe(str(path)).pretrain.mask
    assert (mask.min_ratio, mask.std) == (0.5, 1)


def test_settings_take_no_infinite_numbers(monkeypatch):
    monkeypatch.setenv("LIGHTGEN_RETRY_SECONDS", "inf")
    with pytest.raises(InvalidSettings, match="LIGHTGEN_RETRY_SECONDS"):
        Settings()
