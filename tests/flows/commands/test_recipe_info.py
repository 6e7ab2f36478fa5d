"""Recipes that extend others, and the commands that show recipes."""

import json

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from flows.cli import cli
from flows.errors import UserError
from flows.load import load_recipe, parse_yaml, recipe_names
from flows.recipes import FOLDER

MINE = """
extends: demo
captions: {count: 100}
pretrain: {model: {dropout: 0.25}, optimizer: {name: adamw}}
"""


def written(tmp_path, text: str, name: str = "mine.yaml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def output(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_recipe_extends_another_field_by_field(tmp_path):
    mine, demo = load_recipe(written(tmp_path, MINE)), load_recipe("demo")
    assert (mine.name, mine.captions.count, mine.captions.near_duplicate) == ("mine", 100, demo.captions.near_duplicate)
    assert (mine.pretrain.model.dropout, mine.pretrain.model.width) == (0.25, demo.pretrain.model.width)
    changed = mine.pretrain.optimizer.model_copy(update={"name": "muon"})
    assert changed == demo.pretrain.optimizer
    assert mine.dpo == demo.dpo


def test_a_path_that_is_extended_is_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    written(tmp_path, MINE)
    written(tmp_path, "extends: ../mine.yaml\nseed: 7\n", "deep/other.yaml")
    monkeypatch.chdir(tmp_path)
    other = load_recipe("deep/other.yaml")
    assert (other.name, other.seed, other.captions.count) == ("other", 7, 100)


def test_recipes_that_extend_each_other_are_an_error(tmp_path):
    written(tmp_path, "extends: b.yaml\n", "a.yaml")
    with pytest.raises(UserError, match=r"extends a.yaml, which extends it: a.yaml -> b.yaml"):
        load_recipe(written(tmp_path, "extends: a.yaml\n", "b.yaml").replace("b.yaml", "a.yaml"))


@pytest.mark.parametrize(
    ("text", "message"), [("extends: dmo", "Did you mean 'demo'"), ("extends: [demo]", "expected a")]
)
def test_what_cannot_be_extended_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize("name", [*recipe_names(), "mine"])
def test_what_show_prints_is_the_same_recipe(tmp_path, name):
    recipe = written(tmp_path, MINE) if name == "mine" else name
    for options in ([], ["--all"]):
        shown = written(tmp_path, output("show", recipe, *options), "shown.yaml")
        assert load_recipe(shown) == load_recipe(recipe)


def test_fields_are_listed_with_default_and_meaning():
    rows = {row["field"]: row for row in json.loads(output("fields", "pretrain", "--json"))}
    assert rows["pretrain.steps"] == {
        "field": "pretrain.steps",
        "default": "100000",
        "means": "optimizer updates",
    }
    assert {"pretrain.optimizer.name", "pretrain.model.preset", "pretrain.head.width"} <= rows.keys()
    assert all(row["means"] for row in json.loads(output("fields", "--json")) if row["field"] != "name")


def test_a_default_is_what_a_recipe_without_the_field_has():
    """Also where it is not the class' own: the blocks of the default preset, filters of recaptions."""
    rows = {row["field"]: row["default"] for row in json.loads(output("fields", "--json"))}
    nothing = load_recipe("demo").model_validate({"name": "nothing"}).pretrain
    for section in ("model", "head", "optimizer"):
        for name, value in getattr(nothing, section).model_dump(mode="json").items():
            assert json.loads(rows[f"pretrain.{section}.{name}"]) == value
    assert rows["synthesis.recaption.short_filters.max_words"] == "20"
    described = json.loads(output("schema"))["$defs"]
    assert described["StudentConfig"]["properties"]["width"]["default"] == nothing.model.width
    assert described["HeadConfig"]["properties"]["depth"]["default"] == nothing.head.depth


def test_a_long_default_leaves_the_meanings_in_sight():
    rows, lines = json.loads(output("fields", "captions", "--json")), output("fields", "captions").splitlines()
    names = max(len(row["field"]) for row in rows)
    assert max(len(row["default"]) for row in rows) > 200
    assert max(line.index(row["means"]) for row, line in zip(rows, lines, strict=True)) <= names + 2 + 40 + 2


def test_one_field_is_shown_alone():
    (row,) = json.loads(output("fields", "pretrain.head.width", "--json"))
    assert (row["field"], row["means"]) == ("pretrain.head.width", "width of the residual MLP")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pretrain.optimiser", "Did you mean 'optimizer'"),
        ("pretrain.head.widht", "Did you mean 'width'.* Known: width, depth, objective"),
        ("pretrain.steps.more", "A field has none below it"),
    ],
)
def test_a_section_or_field_that_does_not_exist_is_named(name, said):
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(cli, ["fields", name], catch_exceptions=False)


def test_recipes_are_listed_and_the_schema_has_all_sections():
    assert [row["name"] for row in json.loads(output("recipes", "--json"))] == recipe_names()
    described = json.loads(output("schema"))
    assert {"extends", "captions", "pretrain", "report"} <= described["properties"].keys()


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("extends: demo\npretrain: {model: tiny}", []),
        ("extends: mine.yaml\nsynthesis: {files: {size: 64}}", []),
        ("pretrain: {model: tiniest}", ["pretrain.model"]),
        ("pretrain: {stps: 4}", ["pretrain"]),
        ("synthesis: {teachers: [{teacher: scene}]}", ["synthesis.teachers.0"]),
        *((name, []) for name in recipe_names()),
    ],
)
def test_an_editor_that_has_the_schema_underlines(text, faults):
    """A file may say less than a recipe: it may extend one, and `pretrain.model` may be a preset's name."""
    read = parse_yaml(text if ":" in text else (FOLDER / f"{text}.yaml").read_text())
    errors = Draft202012Validator(json.loads(output("schema"))).iter_errors(read)
    assert [".".join(map(str, error.absolute_path)) for error in errors] == faults
