"""`lightgen estimate` on this machine: whose speed counts, and by what it is scaled."""

import json
import logging

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands.estimate import Rates, estimate
from flows.commands.measured_here import measured_here
from flows.load import load_recipe
from flows.plan import plan
from storage.artifact import Artifact
from storage.cost import Cost
from storage.manifest import Manifest
from storage.open_store import open_store
from tasks.context.host import host_facts

RECIPE = load_recipe("smoke")


def commit(store, stage, key, *, seconds=10.0, rows=100, flops=None, host=None, config=None, created_at="2026-01-01"):
    """Commit an artifact without files that took so long here."""
    manifest = Manifest(
        stage=stage,
        key=key,
        stage_version=1,
        config=RECIPE.model_dump(mode="json") | (config or {}),
        inputs={},
        files=(),
        counts={"rows": rows},
        timings={"seconds": seconds},
        device_seconds=0.0,
        cost=Cost(attempts=1, wall_seconds=seconds, flops=flops),
        software={},
        host=host_facts(None) | (host or {}),
        created_at=created_at,
    )
    Artifact(store, stage, key).commit(manifest)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def test_a_training_takes_its_flops_at_the_speed_of_the_last(store):
    commit(store, "pretrain", "old", seconds=10, flops=1e9)
    commit(store, "pretrain", "new", seconds=10, flops=4e12, created_at="2026-02-01")
    here = measured_here(store, RECIPE)
    row = next(row for row in estimate(RECIPE, Rates(), here=here)["stages"] if row["stage"] == "pretrain")
    assert row["seconds_here"] == pytest.approx(row["flops"] / 4e11)
    assert row["measured"] == "pretrain/new"


def test_other_stages_take_their_items(store):
    commit(store, "embeddings", "a", seconds=4, rows=200)
    rows = estimate(RECIPE, Rates(), here=measured_here(store, RECIPE))["stages"]
    found = {row["stage"]: row["seconds_here"] for row in rows}
    assert found["embeddings"] == pytest.approx(RECIPE.synthesis.count / 50)
    assert {found[stage] for stage in ("captions", "pretrain", "report")} == {None}


@pytest.mark.parametrize(
    "changes",
    [
        {"host": {"cpu": "another"}},
        {"host": {"gpu": "8 x NVIDIA H100"}},
        {"config": {"embeddings": {"model": "ViT-L-14"}}},
        {"seconds": 0.1},
    ],
)
def test_another_machine_or_model_tells_nothing(store, changes):
    commit(store, "embeddings", "a", **changes)
    assert measured_here(store, RECIPE) == {}


@pytest.mark.parametrize(
    "change", [{"max_sequence_length": 512}, {"step_cache": None}, {"quantization": {"backend": "torchao"}}, None]
)
def test_a_teacher_told_otherwise_is_as_fast_as_it_is(store, change):
    """With another text length, step cache or quantization."""
    fields = ["max_sequence_length=256", "step_cache={method: taylorseer, interval: 3}"]
    recipe = load_recipe("lightgen-0.7b-512", [f"synthesis.diffusers.{field}" for field in fields])
    config = {"synthesis": recipe.model_dump(mode="json")["synthesis"]}
    config["synthesis"]["diffusers"] |= change or {}
    commit(store, "synthesis", "a", config=config)
    assert list(measured_here(store, recipe)) == ([] if change else ["synthesis"])


def test_the_command_shows_the_column_where_something_is_known(store):
    arguments = ["estimate", "smoke", "--store", store.uri]
    without = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    commit(store, "pretrain", "a", seconds=10, flops=1e12)
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert " here" not in without and "Here:" not in without
    assert "none tells of captions, synthesis, embeddings" in shown
    read = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert read["total"]["seconds_here"] > 0


def test_an_unfinished_artifact_is_passed_over(store):
    plan(RECIPE, store).artifacts["captions"].add("captions.parquet", b"", 0, {})
    assert measured_here(store, RECIPE) == {}


def test_a_store_that_does_not_answer_costs_a_line(monkeypatch, caplog):
    monkeypatch.setenv("LIGHTGEN_STORE", "nosuch://x")
    with caplog.at_level(logging.WARNING, "lightgen"):
        assert CliRunner().invoke(cli, ["estimate", "smoke"], catch_exceptions=False).exit_code == 0
    assert "speeds of this machine are not shown: store 'nosuch://x'" in caplog.text
