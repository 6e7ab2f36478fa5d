"""The command `ablate`: what it prints, and what it refuses before anything runs."""

import json

import pytest
from click.testing import CliRunner

from flows.ablation_axes import default_values
from flows.cli import cli
from flows.commands.ablation_estimate import default_rates
from flows.errors import UserError
from flows.load import load_recipe


def invoke(*arguments: str):
    return CliRunner().invoke(cli, ["ablate", "smoke", *arguments])


def test_a_dry_run_prints_the_estimate_alone(tmp_path):
    grid = ["--axis", "captions", "--values", "40,240", "--seeds", "2", "--store", str(tmp_path)]
    given = [f"--throughput={stage}=100" for stage in ("captions", "synthesis", "embeddings", "dedup", "tokens")]
    done = invoke(*grid, *given, "--throughput=pretrain=64", "--throughput=evaluation=12", "--dry-run", "--json")
    estimate = json.loads(done.output)["estimate"]
    assert (estimate["stages_of_all_runs"], estimate["different"], estimate["to_make"]) == (28, 18, 18)
    assert estimate["seconds_by_stage"]["pretrain"] == 4 * 40 * 16 / 64
    assert estimate["seconds_by_stage"]["evaluation"] == 4 * 24 / 12, "one student of each run"
    assert estimate["seconds_by_stage"]["captions"] == 2.4 + 0.4
    assert not any(tmp_path.iterdir())


def test_every_axis_needs_its_values(tmp_path):
    refused = invoke("--axis", "captions", "--axis", "volume", "--values", "1,2", "--store", str(tmp_path)).exception
    assert isinstance(refused, UserError)
    assert str(refused) == "found 2 --axis and 1 --values; every axis needs its values"


def test_an_axis_has_values_of_the_recipes_own_size(tmp_path):
    """Few captions against all of them; a field of the recipe has none."""
    done = invoke("--axis", "captions", "--seeds", "1", "--store", str(tmp_path), "--dry-run", "--json")
    assert json.loads(done.output)["estimate"]["stages_of_all_runs"] == 14
    refused = invoke("--axis", "pretrain.batch_size", "--store", str(tmp_path)).exception
    assert isinstance(refused, UserError)
    assert str(refused).startswith("--axis pretrain.batch_size needs --values: those of captions, volume")


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("captions", [60, 4000]),
        ("volume", [4000, 12000]),
        ("iterations", [1300, 2600]),
        ("checkpoints", [650, 1300, 1950, 2600]),
        ("dedup", ["off", 0.9995]),
        ("preference", ["none", "sft", "nft"]),
    ],
)
def test_values_of_an_axis_follow_from_the_recipe(axis, values):
    assert default_values(axis, load_recipe("demo")) == values


def test_a_given_speed_takes_the_place_of_the_cores():
    assert default_rates({"pretrain": 9.0}, 2.0, 0.5).tflops == 2.0
    assert default_rates({}, None, 0.5).tflops > 0


@pytest.mark.parametrize("value", ["0", "many"])
def test_a_point_is_trained_once_or_more(value):
    refused = invoke("--axis", "captions", "--values", "1", "--seeds", value)
    assert (refused.exit_code, "Invalid value for '--seeds'" in refused.output) == (2, True)
