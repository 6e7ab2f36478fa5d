"""Trackers of one run: TensorBoard, Weights & Biases and MLflow.

A run is the making of one artifact. Its name and id come from stage and key, so a run that resumes after a kill
continues the same curves; repeated steps appear once. The libraries load with the first metric.
"""

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lightgen_core.images.codec import decode_image
from tasks.config.settings import InvalidSettings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MLFLOW_MAX_PARAMS = 100
"""MLflow's limit of parameters in one request."""


@dataclass(frozen=True)
class TrackedRun:
    """Identity and configuration of one run."""

    recipe: str
    stage: str
    key: str
    config: Mapping[str, Any]
    """Sections of the recipe that the stage reads."""
    root: Path
    """Folder of all files that trackers write on this machine."""

    @property
    def name(self) -> str:
        """Name among runs of the same recipe."""
        return f"{self.stage}-{self.key}"

    @property
    def project(self) -> str:
        """Name of the project in W&B, of the experiment in MLflow."""
        return f"lightgen-{self.recipe}"


@dataclass(frozen=True)
class SampleImage:
    """A student's image of a caption, as PNG."""

    student: str
    caption: str
    png: bytes
    step: int = 0


class Tracker(Protocol):
    """Logs one run. The calls come in order, from one thread at a time."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""

    def log_images(self, images: Sequence[SampleImage]) -> None:
        """Log sample images beside the scores."""

    def close(self, *, finished: bool) -> None:
        """End the run; `finished` is False if the stage failed."""


class TensorBoard:
    """Event files in `<root>/<stage>/<key>/`, a new one for each attempt."""

    def __init__(self, run: TrackedRun) -> None:
        self._folder = run.root / run.stage / run.key
        self._writer: SummaryWriter | None = None
        self._folder.mkdir(parents=True, exist_ok=True)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._open(step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a kill must not lose rows that a checkpoint already holds

    def log_images(self, images: Sequence[SampleImage]) -> None:
        writer = self._open(min((image.step for image in images), default=0))
        for image in images:
            writer.add_image(f"{image.caption}/{image.student}", decode_image(image.png), image.step, dataformats="HWC")
        writer.flush()

    def _open(self, step: int) -> "SummaryWriter":
        """Return the writer; its first event drops what an earlier attempt logged from this step on."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = self._writer or SummaryWriter(self._folder, purge_step=step)
        return self._writer

    def close(self, *, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """A run of the project `lightgen-<recipe>` with the key as its id; WANDB_MODE and WANDB_PROJECT are respected."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        run.root.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            id=run.key,
            name=run.name,
            job_type=run.stage,
            config=dict(run.config),
            dir=run.root,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", quiet=True),  # standard output belongs to the program
        )
        self._first_step = self._run.step

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._first_step:  # a resumed run has the earlier steps
            self._run.log(dict(metrics), step=step, commit=True)

    def log_images(self, images: Sequence[SampleImage]) -> None:
        from wandb import Image

        samples = [Image(decode_image(image.png), caption=f"{image.student}: {image.caption}") for image in images]
        self._run.log({"samples": samples})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of the experiment `lightgen-<recipe>`, on the server of MLFLOW_TRACKING_URI; metrics only."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
        existing = client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing else client.create_experiment(name)
        earlier = client.search_runs([experiment], f"tags.`lightgen.key` = '{run.key}'", max_results=1)
        if earlier:
            self._run = earlier[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            tags = {"lightgen.stage": run.stage, "lightgen.key": run.key}
            self._run = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            params = [Param(name, str(value)) for name, value in flat(run.config)]
            for start in range(0, len(params), MLFLOW_MAX_PARAMS):
                client.log_batch(self._run, params=params[start : start + MLFLOW_MAX_PARAMS])
        names = list(earlier[0].data.metrics)[:1] if earlier else []
        steps = [row.step for name in names for row in client.get_metric_history(self._run, name)]
        self._first_step = max(steps, default=-1) + 1

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if step >= self._first_step:  # MLflow would show a repeated step twice
            now = int(time.time() * 1000)
            self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in metrics.items()])

    def log_images(self, images: Sequence[SampleImage]) -> None:
        """Log nothing: MLflow's server decides where files go, often to another service."""

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
    """Raise InvalidSettings, before anything runs, if a tracker cannot be imported, or has no server or key."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InvalidSettings(
                f"LIGHTGEN_TRACKERS asks for {name}, which cannot be imported: {error}.\n"
                f"Install it (pip install 'lightgen[{name}]'), or leave it out: TensorBoard's files are always written."
            ) from error
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InvalidSettings(
            "LIGHTGEN_TRACKERS asks for mlflow, but MLFLOW_TRACKING_URI is not set.\n"
            "Set it to your server's address, or to a file on this machine: sqlite:////data/mlflow.db"
        )
    if "wandb" in names:
        import wandb

        online = wandb.setup().settings.mode == "online"
        try:
            if online:
                wandb.login(verify=False)  # asks a person at a terminal for the key, now rather than hours later
        except wandb.errors.UsageError as error:
            raise InvalidSettings(
                f"LIGHTGEN_TRACKERS asks for wandb, which knows no key: {error}\n"
                "Run `wandb login`, set WANDB_API_KEY, or keep the run on this machine with WANDB_MODE=offline."
            ) from error
