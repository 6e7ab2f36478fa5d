"""The trackers: how one run is shown in TensorBoard, Weights & Biases and MLflow.

A run is an artifact's making. Its name and id come from stage and key, so a making that goes on after a kill continues
the same curves; steps that it repeats are shown once. The libraries load when there is something to show.
"""

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightgen_core.images.codec import decode_image
from tasks.config.settings import SettingsMistake

PARAMETERS_AT_ONCE = 100
"""MLflow takes no more in one request."""


@dataclass(frozen=True)
class Subject:
    """What is shown: the making of one artifact."""

    recipe: str
    stage: str
    key: str
    config: Mapping[str, Any]
    """The part of the recipe that the stage reads."""
    root: Path
    """Folder of all that trackers write on this machine."""

    @property
    def name(self) -> str:
        """Name among runs of the same recipe."""
        return f"{self.stage}-{self.key}"

    @property
    def project(self) -> str:
        """What W&B calls a project and MLflow an experiment."""
        return f"lightgen-{self.recipe}"


@dataclass(frozen=True)
class Picture:
    """A student's picture of a caption, as PNG."""

    student: str
    caption: str
    png: bytes


class Tracker(Protocol):
    """Shows one run. The calls come in order, from one thread at a time."""

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Show what was measured at a step."""

    def pictures(self, pictures: Sequence[Picture]) -> None:
        """Show pictures beside the scores."""

    def close(self, *, finished: bool) -> None:
        """End the run; `finished` is false where the stage failed."""


class TensorBoard:
    """Event files in `<root>/<stage>/<key>/`, a new one for each attempt."""

    def __init__(self, subject: Subject) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(subject.root / subject.stage / subject.key))
        self._started = False

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._add(step, [{"tag": name, "simple_value": value} for name, value in figures.items()])

    def pictures(self, pictures: Sequence[Picture]) -> None:
        values = []
        for each in pictures:
            height, width = decode_image(each.png).shape[:2]
            image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": each.png}
            values.append({"tag": f"{each.caption}/{each.student}", "image": image})
        self._add(0, values)

    def _add(self, step: int, values: list[dict[str, Any]]) -> None:
        """Write an event through to the file: a kill must not take rows along that a checkpoint already holds."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        if not self._started:  # readers then forget what an earlier attempt showed from this step on
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=step, session_log=start))
            self._started = True
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary={"value": values}))
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        self._writer.close()


class WandB:
    """A run of the project `lightgen-<recipe>` with the key as its id; WANDB_MODE and WANDB_PROJECT are respected."""

    def __init__(self, subject: Subject) -> None:
        import wandb

        subject.root.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", subject.project),
            id=subject.key,
            name=subject.name,
            job_type=subject.stage,
            config=dict(subject.config),
            dir=subject.root,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", quiet=True),  # standard output belongs to the program
        )
        self._from = self._run.step

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        if step >= self._from:  # a run that goes on has the steps before
            self._run.log(dict(figures), step=step, commit=True)

    def pictures(self, pictures: Sequence[Picture]) -> None:
        import wandb

        shown = [wandb.Image(decode_image(each.png), caption=f"{each.student}: {each.caption}") for each in pictures]
        self._run.log({"samples": shown})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of the experiment `lightgen-<recipe>`, on the server of MLFLOW_TRACKING_URI; figures only."""

    def __init__(self, subject: Subject) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", subject.project)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        earlier = client.search_runs([experiment], f"tags.`lightgen.key` = '{subject.key}'", max_results=1)
        if earlier:
            self._run = earlier[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            tags = {"lightgen.stage": subject.stage, "lightgen.key": subject.key}
            self._run = client.create_run(experiment, tags=tags, run_name=subject.name).info.run_id
            parameters = [Param(name, str(value)) for name, value in flat(subject.config)]
            for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
                client.log_batch(self._run, params=parameters[start : start + PARAMETERS_AT_ONCE])
        shown = list(earlier[0].data.metrics)[:1] if earlier else []
        steps = [row.step for name in shown for row in client.get_metric_history(self._run, name)]
        self._from = max(steps, default=-1) + 1

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if step >= self._from:  # MLflow would show a repeated step twice
            now = int(time.time() * 1000)
            self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in figures.items()])

    def pictures(self, pictures: Sequence[Picture]) -> None:
        """Show nothing: where MLflow keeps files is its server's affair, and often another service's."""

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


REMOTE: Mapping[str, type[WandB] | type[MLflow]] = {"wandb": WandB, "mlflow": MLflow}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, with names such as `pretrain.model.width`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def require_trackers(names: Sequence[str]) -> None:
    """Check, before anything runs, that the trackers asked for can be used.

    Raises:
        SettingsMistake: one cannot be imported, or nothing says where its figures are to go.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsMistake(
                f"LIGHTGEN_TRACKERS asks for {name}, which cannot be imported: {error}.\n"
                f"Install it (pip install 'lightgen[{name}]'), or leave it out: TensorBoard's files are always written."
            ) from error
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise SettingsMistake(
            "LIGHTGEN_TRACKERS asks for mlflow, but MLFLOW_TRACKING_URI is not set.\n"
            "Set it to your server's address, or to a file on this machine: sqlite:////data/mlflow.db"
        )
    if "wandb" in names:
        _require_wandb_login()


def _require_wandb_login() -> None:
    import wandb

    if wandb.setup().settings.mode != "online":
        return
    try:
        wandb.login(verify=False)  # asks a person at a terminal for the key, now rather than hours later
    except wandb.errors.UsageError as error:
        raise SettingsMistake(
            f"LIGHTGEN_TRACKERS asks for wandb, which knows no key: {error}\n"
            "Run `wandb login`, set WANDB_API_KEY, or keep the run on this machine with WANDB_MODE=offline."
        ) from error
