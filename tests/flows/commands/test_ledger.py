"""`lightgen ledger`: every stage and round, sums by hand, estimate and paper beside them; old artifacts too."""

import json

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.errors import UserError
from flows.load import load_recipe
from flows.plan import plan
from storage.artifact import Artifact
from storage.cost import Cost, DeviceCost
from storage.manifest import FORMAT_VERSION, MANIFEST, Manifest
from storage.open_store import open_store
from storage.store import Store
from tasks.ledger import cost_of, money

ROUNDS = ["dpo.rounds=2", "dpo.control=sft"]
GPU = DeviceCost(id="GPU-1", name="NVIDIA H100 80GB HBM3", seconds=3600, busy_seconds=1800, joules=720000)
COST = Cost(
    attempts=2,
    processes=3,
    wall_seconds=4000,
    waiting_seconds=100,
    busy_seconds=5000,
    cpu_seconds=7200,
    flops=1e12,
    bytes_written=10,
    devices=(GPU,),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store with each stage of smoke in two rounds, as manifests without files; captions are of an old version."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    for label, planned in plan(load_recipe("smoke", ROUNDS), store).stages.items():
        facts = {"stage": planned.stage.name, "key": planned.artifact.key, "stage_version": 1, "config": {}}
        facts |= {"files": (), "counts": {"rows": 3}, "software": {}, "host": {}, "device_seconds": 3600.0}
        facts |= {"created_at": "2026-01-01T00:00:00+00:00", "timings": {"seconds": 4000.0}, "cost": COST}
        facts |= {"inputs": {each.label: each.key for each in planned.inputs}}
        if label == "captions":
            facts |= {"cost": None, "format_version": 3, "device_seconds": 0.0}
        path = f"{planned.artifact.path}/{MANIFEST}"
        store.write(path, Manifest(**facts).model_dump_json().encode())
    return store


def lightgen(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["ledger", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def of_recipe(store: Store) -> dict:
    lines = [word for line in ROUNDS for word in ("--set", line)]
    return json.loads(lightgen("smoke", *lines, "--store", store.uri, "--json"))


def test_every_stage_and_round_has_a_line(store):
    labels = [row["stage"] for row in of_recipe(store)["stages"]]
    assert labels[5:] == [
        *("pretrain", "pairs", "dpo", "pairs-2", "dpo-2"),
        *("dpo-sft", "pairs-sft-2", "dpo-sft-2", "evaluation", "report"),
    ]


def test_the_student_is_without_control_evaluation_and_report(store):
    result = of_recipe(store)
    assert (result["student"]["attempts"], result["total"]["attempts"]) == (1 + 9 * 2, 1 + 14 * 2)
    assert result["student"]["device_seconds"] == 9 * 3600
    assert result["student"]["joules"] == 9 * 720000 and result["student"]["flops"] == 9e12
    assert result["paper"]["device_days"] == 88
    assert result["paper"]["pretrain_device_days"] == pytest.approx(1 / 24)
    assert result["paper"]["student_device_days"] == pytest.approx(9 / 24)


def test_the_estimate_of_a_round_is_its_share(store):
    from flows.commands.estimate import Rates, estimate

    expected = {row["stage"]: row for row in estimate(load_recipe("smoke", ROUNDS), Rates())["stages"]}
    rows = {row["stage"]: row["estimate"] for row in of_recipe(store)["stages"]}
    assert rows["pretrain"]["flops"] == expected["pretrain"]["flops"]
    assert rows["dpo-2"] == rows["dpo"] and rows["dpo"]["flops"] == expected["dpo"]["flops"] / 4


def test_an_artifact_has_all_that_it_was_made_from(store):
    key = plan(load_recipe("smoke", ROUNDS), store).artifacts["dpo-2"].key
    result = json.loads(lightgen(f"dpo/{key[:6]}", "--store", store.uri, "--json"))
    labels = [row["stage"] for row in result["stages"]]
    assert [label.partition(" ")[0] for label in labels] == [
        *("captions", "synthesis", "embeddings", "dedup", "tokens", "pretrain", "pairs", "pairs-2", "dpo", "dpo")
    ]
    assert result["student"] == result["total"] and result["total"]["device_seconds"] == 9 * 3600


def test_an_artifact_of_before_the_meter_is_said_to_be_inferred(store):
    result = of_recipe(store)
    assert [row["stage"] for row in result["stages"] if not row["measured"]] == ["captions"]
    assert result["stages"][0]["seconds"] == 4000
    assert any("format version 3" in reason for reason in result["total"]["not_measured"])


def test_a_manifest_of_format_3_opens_and_stays_as_it_is(store):
    key = plan(load_recipe("smoke"), store).artifacts["captions"].key
    manifest = Artifact(store, "captions", key).manifest()
    assert manifest.cost is None and "cost" not in manifest.model_dump()
    assert manifest.format_version == 3 < FORMAT_VERSION
    assert cost_of(manifest).device_seconds == 0


def test_money_follows_the_longest_name_in_the_price_list():
    assert money(COST, {}) == (None, [])
    assert money(COST, {"nvidia": 1.0, "NVIDIA H100": 2.5, "cpu": 0.1}) == (2.5 + 0.2, [])
    assert money(COST, {"NVIDIA H100": 2.5}) == (2.5, ["cpu"])
    assert money(COST, {"cpu": 0.1}) == (0.2, ["NVIDIA H100 80GB HBM3"])


def test_the_table_shows_money_and_energy_where_there_are_any(store, monkeypatch):
    monkeypatch.setenv("LIGHTGEN_PRICES", '{"NVIDIA H100": 2.5}')
    lines = [word for line in ROUNDS for word in ("--set", line)]
    said = lightgen("smoke", *lines, "--store", store.uri)
    student = next(line for line in said.splitlines() if line.startswith("student "))
    assert "1.8 kWh" in student and student.endswith("  22.5")
    assert "paper: 88 A100-days of pre-training" in said and "without a price in LIGHTGEN_PRICES: cpu" in said


def test_a_store_without_the_recipe_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing of smoke as it stands is in"):
        lightgen("smoke", "--store", str(tmp_path))


def test_an_artifact_takes_no_set(store):
    with pytest.raises(UserError, match="name the recipe, or drop --set"):
        lightgen("dpo/12", "--set", "seed=3", "--store", store.uri)
