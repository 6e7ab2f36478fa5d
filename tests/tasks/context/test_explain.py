"""The reason for a missing artifact: the explain one of its stage and the fields that differ, at a bounded price."""

import contextlib
import datetime
import logging
import os

import pytest

from flows.load import load_recipe
from flows.plan import plan
from storage.artifact import Artifact, ArtifactStatus
from storage.manifest import MANIFEST, Manifest
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context import explain
from tasks.context.context import StageContext
from tasks.context.explain import explain_missing
from tasks.context.shards import split_rows
from tasks.stage import stage

CONFIG = {
    "seed": 0,
    "pretrain": {"steps": 2000, "mask": {"min_ratio": 0.0}, "sizes": [64]},
    "weights": {"zoo:t5": "aa"},
}
INPUTS = {"tokens": "t1", "captions": "c1"}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def made(store: Store, key: str, config: dict = CONFIG, day: int = 21, **changes: object) -> None:
    """Put the manifest of an artifact of `pretrain` into a store."""
    facts = {"stage": "pretrain", "key": key, "stage_version": 2, "config": config, "inputs": INPUTS, "files": ()}
    cost = {"counts": {}, "timings": {"seconds": 1.0}, "device_seconds": 1.0, "software": {}, "host": {}}
    manifest = Manifest(**facts | cost | {"created_at": f"2026-11-{day}T10:00:00+00:00"} | changes)
    store.write(f"pretrain/{key}/{MANIFEST}", manifest.model_dump_json().encode())
    os.utime(store.local_path(f"pretrain/{key}/{MANIFEST}"), (day, day))


def why(store: Store, config: dict = CONFIG, inputs: dict = INPUTS, version: int = 2) -> str:
    return explain_missing(Artifact(store, "pretrain", "new"), version, config, inputs)


def changed(**fields: object) -> dict:
    return CONFIG | {"pretrain": CONFIG["pretrain"] | fields}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"config": changed(steps=2600)}, "pretrain.steps: 2600, there 2000"),
        ({"config": changed(mask={"min_ratio": 0.5})}, "pretrain.mask.min_ratio: 0.5, there 0.0"),
        (
            {"config": changed(sizes=list(range(64)))},
            "pretrain.sizes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11..., there [64]",
        ),
        (
            {"config": changed(mask=None) | {"seed": 1}},
            'seed: 1, there 0; pretrain.mask: null, there {"min_ratio": 0.0}',
        ),
        ({"config": changed(new="a")}, 'pretrain.new: "a", there nothing'),
        ({"config": CONFIG | {"weights": {"zoo:t5": "bb"}}}, "the weights of zoo:t5"),
        ({"config": changed(steps=1) | {"weights": {"other": "bb"}}}, "pretrain.steps: 1, there 2000"),
        ({"config": changed(steps=1) | {"files": {"prompts.txt": "cc"}}}, "pretrain.steps: 1, there 2000"),
        ({"inputs": INPUTS | {"tokens": "t2"}}, "its input tokens"),
        ({"inputs": {"tokens": "t2", "captions": "c2"}}, "2 of its inputs"),
        ({"inputs": INPUTS | {"tokens": "t2"}, "config": CONFIG | {"seed": 1}}, "seed: 1, there 0; its input tokens"),
        ({"version": 3}, "the version of the stage: 3, there 2"),
    ],
)
def test_what_differs_is_named_with_both_values(store, wanted, said):
    made(store, "90ecf2381dd2")
    assert why(store, **wanted) == f"never made; differs from 90ecf238 (made 2026-11-21) in {said}"


def test_without_a_near_artifact_the_reason_is_never_made(store):
    """The store is empty, or its artifact differs in five fields."""
    assert why(store) == "never made"
    made(store, "far")
    assert why(store, changed(a=1, b=2, c=3, d=4, e=5)) == "never made"
    assert why(store, changed(a=1, b=2, c=3, d=4)) != "never made"


def test_the_nearest_is_chosen_by_fields_then_inputs_then_age(store):
    made(store, "two-fields", changed(steps=1, sizes=[]), day=25)
    made(store, "one-field-other-input", changed(steps=2), day=24, inputs={"tokens": "t2", "captions": "c1"})
    made(store, "one-field-old", changed(steps=3), day=20)
    made(store, "one-field-new", changed(steps=4), day=22)
    assert "differs from one-fiel (made 2026-11-22) in pretrain.steps: 2000, there 4" in why(store)


def test_only_so_many_of_the_newest_manifests_are_read(store, monkeypatch):
    monkeypatch.setattr(explain, "MAX_MANIFESTS", 3)
    for day in range(10, 20):
        made(store, f"day-{day}", changed(steps=day), day=day)
    made(store, "day-same", changed(steps=2000, a=0), day=9)
    store.write("pretrain/unfinished/_progress/files/x.json", b"{}")
    read: list[str] = []
    manifest = Artifact.manifest
    monkeypatch.setattr(Artifact, "manifest", lambda self: read.append(self.key) or manifest(self))
    assert "(made 2026-11-19) in pretrain.steps: 2000, there 19" in why(store)
    assert sorted(read) == ["day-17", "day-18", "day-19"]


def test_a_plan_of_what_is_done_reads_no_other_artifact(store, monkeypatch):
    looks: list[str] = []
    monkeypatch.setattr(Artifact, "check", lambda self, **how: ArtifactStatus("done", "1 row in 1 file"))
    for name in ("folders", "read", "list_files"):
        monkeypatch.setattr(type(store), name, lambda self, path: looks.append(path))
    planner = plan(load_recipe("smoke"), store)
    assert ({planner.explain(name) for name in planner.artifacts}, looks) == ({"1 row in 1 file"}, [])


@stage(version=1, config_sections=("seed", "captions"))
def captions(ctx: StageContext) -> None:
    """Write three files, or die after two."""
    for shard in ctx.pending_shards(split_rows(3, 1, "part")):
        if shard.number == 2 and ctx.recipe.seed == 7:
            raise InterruptedError
        ctx.write(shard.name, b"x")


def test_a_stage_logs_why_it_starts_and_from_where_it_goes_on(store, caplog):
    caplog.set_level(logging.INFO, "tasks")

    def make(remake_before: datetime.datetime | None = None, **fields: int) -> list[str]:
        caplog.clear()
        recipe = load_recipe("smoke").model_copy(update=fields)
        artifact = captions.artifact(recipe, store, ())
        with contextlib.suppress(InterruptedError):
            captions.run(recipe, Settings(), (), artifact, remake_before=remake_before)
        return [line for line in caplog.messages if "shard " not in line]

    assert make() == ["captions: started (never made)"]
    assert make(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)) == [
        "captions: started (to be made again)"
    ]
    (said,) = make(seed=7)
    assert said.startswith("captions: started (never made; differs from") and said.endswith("in seed: 7, there 0)")
    going_on, there = make(seed=7)
    assert going_on == "captions: going on: 2 finished files of an interrupted run"
    assert there == "captions: 2 of 3 shards are there already"


def test_an_interrupted_training_without_whole_files_is_partial(store):
    store.write("pretrain/k/_progress/scratch/checkpoints/step-00000001/state.json", b"{}")
    assert Artifact(store, "pretrain", "k").check() == ArtifactStatus(
        "partial", "unfinished work of an interrupted run"
    )
