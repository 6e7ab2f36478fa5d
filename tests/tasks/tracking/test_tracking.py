"""TensorBoard, Weights & Biases and MLflow show a run: read back with their own readers."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.load import load_recipe
from lightgen_core.images.codec import encode_png
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.shards import split_rows
from tasks.stage import Stage, stage
from tasks.tracking.report import BackgroundTracker, track_stage, tracking_folder
from tests.programs.tracked_stage import RECIPE, make, pretrain_stage
from tests.support.paths import PROGRAMS, ROOT


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def read(folder: Path) -> EventAccumulator:
    """Return the content of a folder of event files, as TensorBoard config_sections it."""
    return EventAccumulator(str(folder)).Reload()


def curve(folder: Path, tag: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read(folder).Scalars(tag)]


def attempt(store: Path, first: int, last: int, *kill: str) -> int:
    """Make the stage in a process of its own; returns its exit status."""
    command = [sys.executable, str(PROGRAMS / "tracked_stage.py"), str(store), str(first), str(last), *kill]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


def test_tensorboard_shows_all_steps_and_metrics_of_a_training(store, caplog):
    with caplog.at_level(logging.INFO, "tasks"):
        artifact = make(store, pretrain_stage(1, 5))
    folder = store / "tracking" / "pretrain" / artifact.key
    assert curve(folder) == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert read(folder).Tags()["scalars"] == ["loss", "images_per_second"]
    assert f"tensorboard --logdir {store / 'tracking'}" in caplog.text


def test_a_resumed_training_shows_each_step_once(store):
    """Steps that were repeated show the later metrics."""
    assert attempt(store, 1, 8, "kill") == -9
    assert attempt(store, 5, 10) == 0
    (folder,) = (store / "tracking" / "pretrain").iterdir()
    assert len(list(folder.iterdir())) == 2
    assert curve(folder) == [(step, pytest.approx(1 / step + (10 if step >= 5 else 0))) for step in range(1, 11)]


def evaluation_stage(scores: dict | None) -> Stage:
    """A stage named `evaluation` with two students, two categories and two images of each caption."""

    @stage(version=1, config_sections=("seed", "evaluation"))
    def evaluation(ctx: StageContext) -> None:
        import numpy as np

        rows = [
            {"student": student, "category": category, "caption": f"a {category}", "image": {"bytes": png, "path": ""}}
            for student, level in (("pretrain", 10), ("dpo", 20))
            for category in ("circle", "square")
            for png in (encode_png(np.full((6, 8, 3), level + number, np.uint8)) for number in range(2))
        ]
        for shard in ctx.pending_shards(split_rows(1, 1, "samples")):
            ctx.write_table(shard.name, pa.Table.from_pylist(rows))
        ctx.metrics = {"scores": {"pretrain": scores, "dpo": scores}, "clip_score": {"dpo": {"value": 0.25}}}

    return evaluation


def test_tensorboard_shows_the_scores_of_an_evaluation(store):
    """It shows the first image of each category too."""
    artifact = make(store, evaluation_stage({"overall": {"value": 0.5}}))
    found = read(store / "tracking" / "evaluation" / artifact.key)
    shown = {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert shown == {"pretrain/overall": [(0, 0.5)], "dpo/overall": [(0, 0.5)], "dpo/clip_score": [(0, 0.25)]}
    pictures = {f"a {category}/{student}" for category in ("circle", "square") for student in ("pretrain", "dpo")}
    assert set(found.Tags()["images"]) == pictures
    (image,) = found.Images("a square/dpo")
    assert (image.width, image.height, image.encoded_image_string[:4]) == (8, 6, b"\x89PNG")


def test_scores_of_a_kept_checkpoint_stand_at_its_step(store):
    recipe = load_recipe("smoke", ["pretrain.keep_steps=[20]", "evaluation.checkpoint=20"])
    artifact = make(store, evaluation_stage({"overall": {"value": 0.5}}), recipe=recipe)
    found = read(store / "tracking" / "evaluation" / artifact.key)
    assert [point.step for point in found.Scalars("pretrain/overall")] == [20]
    assert [image.step for image in found.Images("a square/pretrain")] == [20]


def test_a_done_stage_and_one_without_metrics_write_nothing(store):
    def make_all() -> list[Path]:
        make(store, pretrain_stage(1, 2))
        make(store, evaluation_stage({"overall": {"value": 0.5}}))
        return sorted((store / "tracking").rglob("*"))

    before = make_all()
    assert len(before) == 6  # two stages, two keys, two files
    assert make_all() == before

    @stage(version=1, config_sections=("seed",))
    def captions(ctx: StageContext) -> None:
        for shard in ctx.pending_shards(split_rows(4, 2, "part")):
            ctx.write_table(shard.name, pa.table({"id": [1, 2]}))

    make(store, captions)
    assert sorted((store / "tracking").rglob("*")) == before


def test_scores_that_nobody_can_give_are_left_out(store):
    artifact = make(store, evaluation_stage(None))
    assert read(store / "tracking" / "evaluation" / artifact.key).Tags()["scalars"] == ["dpo/clip_score"]


def test_event_files_lie_in_the_store_scratch_or_a_given_folder(tmp_path):
    """In a local store, below scratch for a remote one."""
    local, remote = open_store(str(tmp_path / "store")), open_store("memory://tracking")
    settings = Settings(scratch=str(tmp_path / "scratch"))
    assert tracking_folder(settings, local) == tmp_path / "store" / "tracking"
    assert tracking_folder(settings, remote) == tmp_path / "scratch" / "tracking"
    assert tracking_folder(Settings(tracking_folder=str(tmp_path / "tb")), local) == tmp_path / "tb"


def test_tracking_changes_neither_artifacts_nor_store_commands(store, tmp_path):
    def verb(*arguments: str) -> str:
        command = [sys.executable, "-m", "flows", "store", *arguments, "--store", str(store)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    tracked_one = make(store, pretrain_stage(1, 3))
    plain = pretrain_stage(1, 3)
    other = plain.artifact(RECIPE, open_store(str(tmp_path / "other")), ())
    plain.run(RECIPE, Settings(), (), other)
    files = [entry.model_dump() for entry in tracked_one.manifest().files]
    assert files == [entry.model_dump() for entry in other.manifest().files]
    assert [row["stage"] for row in json.loads(verb("ls", "--json"))["artifacts"]] == ["pretrain"]
    assert json.loads(verb("verify", "--json"))["damaged"] == []
    assert "tracking" not in verb("gc", "--keep", "smoke", "--delete")
    assert curve(store / "tracking" / "pretrain" / tracked_one.key)[-1][0] == 3


class Unreachable:
    """A tracker whose server is gone after the first step."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def log_metrics(self, step: int, metrics: dict) -> None:
        self.told.append(step)
        if step > 1:
            raise ConnectionError("no route to host")

    def log_images(self, images: list) -> None:
        self.told.append(-1)

    def close(self, *, finished: bool) -> None:
        self.told.append(-2)


def test_a_tracker_that_fails_is_reported_once_and_left_out(caplog):
    tracker = Unreachable()
    background = BackgroundTracker("mlflow", lambda: tracker)
    for step in range(1, 5):
        background.log_metrics(step, {"loss": 1.0})
    background.close(finished=True)
    assert tracker.told == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "mlflow shows no more of this stage, which goes on without it: no route to host"
    ]


def test_a_disk_closed_to_tensorboard_costs_only_a_log_line(store, tmp_path, caplog):
    (tmp_path / "full").touch()
    artifact = make(store, pretrain_stage(1, 5), Settings(tracking_folder=str(tmp_path / "full")))
    assert artifact.check().state == "done"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("TensorBoard shows no more of this stage, which goes on without it: ")


def test_a_hanging_tracker_holds_neither_stage_nor_program(tmp_path):
    code = (
        "import threading; from tasks.tracking import report; report.CLOSE_TIMEOUT_SECONDS = 0.1; "
        "tracker = report.BackgroundTracker('wandb', threading.Event().wait); "
        "tracker.log_metrics(1, {}); tracker.close(finished=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "wandb has not taken all of this stage within 0 s; the run goes on\n")


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        ('["mlflow"]', "asks for mlflow, which cannot be imported: it is broken here"),
        ('["wandbx"]', "LIGHTGEN_TRACKERS: found 'wandbx'; input should be 'wandb' or 'mlflow'"),
        ("wandb", "is JSON, for example LIGHTGEN_TRACKERS="),
    ],
)
def test_an_unavailable_tracker_is_reported_before_anything_runs(store, tmp_path, monkeypatch, trackers, message):
    (tmp_path / "mlflow.py").write_text("raise ImportError('it is broken here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("LIGHTGEN_TRACKERS", trackers)
    command = [sys.executable, "-m", "flows", "run", "smoke", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, store.exists()) == (2, "", False)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_and_biases_gets_one_run_with_the_key_as_its_id(store, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed: what it is sent is not tested")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    artifact = make(store, pretrain_stage(1, 4), Settings(trackers=("wandb",)))
    wandb.teardown()  # ends W&B's own process, which writes the file
    (file,) = (store / "tracking" / "wandb").glob("offline-run-*/*.wandb")
    records = list(wandb_records(file.read_bytes()))
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.project, run.display_name) == (artifact.key, "lightgen-smoke", f"pretrain-{artifact.key}")
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(row["_step"], row["loss"]) for row in rows] == [(step, pytest.approx(1 / step)) for step in range(1, 5)]
    (ended,) = [record.exit for record in records if record.HasField("exit")]
    assert ended.exit_code == 0


def wandb_records(data: bytes) -> Iterator:
    """The records of W&B's offline file: LevelDB's log format, blocks of 32 KiB, behind seven bytes of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, torso, block = 7, b"", 1 << 15
    while place + 7 <= len(data):
        if block - place % block < 7:  # no room for a header: the block's end is padding
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        torso += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield Record.FromString(torso)
            torso = b""


def test_mlflow_gets_one_run_that_a_later_attempt_goes_on_with(store, tmp_path, monkeypatch):
    reason = "MLflow cannot be imported: what it is sent is not tested"
    mlflow = pytest.importorskip("mlflow", reason=reason, exc_type=ImportError)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings = Settings(trackers=("mlflow",))
    failing = pretrain_stage(1, 4)
    artifact = failing.artifact(RECIPE, open_store(str(store)), ())
    with pytest.raises(RuntimeError), track_stage(RECIPE, settings, failing, artifact) as on_progress:
        failing.run(RECIPE, settings, (), artifact, on_progress=on_progress)
        artifact.remove()
        raise RuntimeError("stands for what ends a stage")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("lightgen-smoke")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (f"pretrain-{artifact.key}", "FAILED")
    assert run.data.params["dedup.threshold"] == str(RECIPE.dedup.threshold)
    make(store, pretrain_stage(3, 6), settings)
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert run.info.status == "FINISHED"
    assert sorted((row.step, row.value) for row in history) == [
        (step, pytest.approx(1 / step + (10 if step > 4 else 0))) for step in range(1, 7)
    ]
