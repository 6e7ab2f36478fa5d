"""The form in the Prefect UI follows from the recipe, and says the same as lines on the command line."""

import json
import subprocess
import sys
import typing
from types import SimpleNamespace

import pytest
from prefect.utilities.callables import parameter_schema

from flows.distill import ALL_NAMES
from flows.errors import UserError
from flows.load import load_recipe, recipe_names
from flows.operations.form import DESCRIPTIVE_FIELDS
from flows.request import validate_request
from flows.run import run, run_name
from lightgen_core.config import Section
from tasks.config.recipe import Recipe

LINES = ["seed=7", "captions.count=40", "tokens.flip=true", "dpo.optimizer.max_grad_norm=1.5"]
FORM = {
    "seed": 7,
    "captions": {"count": 40, "near_duplicate": None, "llm": None, "decontamination": {"ngram": None}},
    "tokens": {"flip": True},
    "dpo": {"optimizer": {"max_grad_norm": 1.5}},
    "sampler": None,
    "report": {},
}


@pytest.fixture(scope="module")
def schema() -> dict:
    return parameter_schema(run.fn).model_dump()


@pytest.fixture(scope="module")
def sections(schema) -> dict:
    return {name: section["properties"] for name, section in schema["definitions"].items()}


def test_the_parameters_are_those_of_the_command_line(schema):
    """Only the recipe is required."""
    assert list(schema["properties"]) == ["recipe", "store", "overrides", "only", "from_stage", "until", "refresh"]
    assert schema["required"] == ["recipe"]


def test_recipes_and_stages_are_choices_and_a_path_may_be_given(schema):
    shipped, path = schema["properties"]["recipe"]["anyOf"]
    assert (shipped["enum"], path["type"]) == (recipe_names(), "string")
    for name in ("only", "from_stage", "until"):
        assert schema["properties"][name]["enum"] == [None, *ALL_NAMES]
    assert schema["properties"]["refresh"]["items"]["enum"] == ["all", *ALL_NAMES]


def test_every_field_of_a_recipe_is_in_the_form_and_described(sections):
    models = {model.__name__: model for model in _models(Recipe)}
    assert models.keys() == sections.keys()
    for name, fields in sections.items():
        expected = [field for field in models[name].model_fields if name != "Recipe" or field not in DESCRIPTIVE_FIELDS]
        assert list(fields) == expected
        assert [field for field, shown in fields.items() if not shown.get("description")] == []


def _models(model: type[Section]) -> list[type[Section]]:
    def within(annotation) -> list[type[Section]]:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return _models(annotation)
        return [found for part in typing.get_args(annotation) for found in within(part)]

    return [model, *(found for field in model.model_fields.values() for found in within(field.annotation))]


def test_units_bounds_choices_and_defaults_come_from_the_recipe(sections):
    count, source = sections["Captions"]["count"], sections["Captions"]["source"]
    assert (count["type"], count["minimum"]) == ("integer", 1)
    assert count["description"].endswith("(default 4000)")
    assert source["enum"] == [None, "scene", "file", "llm"]
    assert ", px (default 48)" in sections["World"]["image_size"]["description"]
    assert "(default 1e-05)" in sections["DpoOptimizerConfig"]["learning_rate"]["description"]


def test_no_field_of_the_form_has_a_default_that_would_be_sent(schema, sections):
    items = ("Phase", "WeightedTeacher", "WeightedCaptions", "HeadFilter")  # an item of a list is whole
    optional = {name: fields for name, fields in sections.items() if name not in items}
    assert [(name, field) for name, fields in optional.items() for field in fields if "default" in fields[field]] == []
    assert [name for name in optional if "required" in schema["definitions"][name]] == []
    booleans = [shown for fields in optional.values() for shown in fields.values() if shown.get("type") == "boolean"]
    assert booleans == []  # a bare switch is sent as false though nobody touched it


def test_nothing_in_the_form_is_of_the_type_null(schema):
    """The UI says `Property is type "None"` of each that is."""
    assert '"null"' not in json.dumps(schema)


def test_the_form_and_lines_give_the_same_recipe():
    assert load_recipe("smoke", FORM) == load_recipe("smoke", LINES)


def test_an_empty_form_changes_nothing():
    assert load_recipe("smoke", {"seed": None, "captions": {"count": None, "llm": None}}) == load_recipe("smoke")
    assert load_recipe("smoke", {"captions": {"llm": {}}, "distil_head": {}}) == load_recipe("smoke")


def test_a_mapping_that_is_no_section_is_taken_as_it_is():
    llm = {"model": "m", "backend": "endpoint", "request": {"stop": None}}
    made = load_recipe(
        "smoke",
        {
            "captions": {"source": "llm", "llm": llm},
            "pairs": {"kind": "teacher", "scorer": "none"},
            "evaluation": {"benchmark": "prompts"},
        },
    )
    assert made.captions.llm.request == {"stop": None}


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ({"captions": {"count": -1}}, ["captions.count=-1"]),
        ({"captions": {"cuont": 1}}, ["captions.cuont=1"]),
        ({"pretrain": {"model": {"heads": 5}}}, ["pretrain.model.heads=5"]),
    ],
)
def test_a_mistake_in_the_form_reads_as_on_the_command_line(form, lines):
    with pytest.raises(UserError) as told:
        load_recipe("smoke", lines)
    with pytest.raises(UserError) as shown:
        load_recipe("smoke", form)
    assert str(shown.value) == str(told.value)


def test_preference_tuning_keeps_its_learning_rate():
    """It stays when another field of its optimizer is set."""
    assert load_recipe("smoke", ["dpo.optimizer.max_grad_norm=1.5"]).dpo.optimizer.learning_rate == 1e-5


def test_a_run_is_named_after_recipe_and_the_key_it_ends_with(tmp_path):
    whole = validate_request("smoke", str(tmp_path), FORM).run_name
    part = validate_request("smoke", str(tmp_path), LINES, until="captions").run_name
    assert whole == validate_request("smoke", "memory://elsewhere", LINES).run_name
    assert (whole[:6], len(whole)) == ("smoke-", 14)
    assert (part[:15], len(part)) == ("smoke-captions-", 23)
    assert validate_request("smoke", str(tmp_path), LINES, until="dedup").run_name[:12] == "smoke-dedup-"


@pytest.mark.parametrize(
    "wrong", [{"recipe": "nosuch"}, {"recipe": "smoke", "only": "nosuch"}, {"recipe": "smoke", "store": "nosuch://x"}]
)
def test_a_run_that_cannot_be_is_named_after_its_request(monkeypatch, wrong):
    monkeypatch.setattr("flows.run.FlowRunContext", SimpleNamespace(get=lambda: SimpleNamespace(parameters=wrong)))
    assert run_name() == wrong["recipe"]


@pytest.mark.parametrize("module", ["flows.run", "flows.commands.serve", "flows.operations.form"])
def test_deploying_and_serving_load_no_library_of_models(module):
    code = (
        f"import sys, {module}; sys.exit(bool({{'torch', 'transformers', 'diffusers', 'datasets'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
