"""Tracking of a running stage: training curves, evaluation scores and sample images.

Trackers show copies of what artifacts hold. So one that fails is reported and dropped, and the stage goes on.
"""

import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from storage.artifact import Artifact
from storage.rows import take_rows
from storage.store import Store
from storage.tables import read_table
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.progress import Progress, ProgressCallback
from tasks.stage import Stage
from tasks.tracking.trackers import REMOTE, SampleImage, TensorBoard, TrackedRun, Tracker

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_SECONDS = 120.0
"""Longest wait at a stage's end for a remote tracker to send what it was given."""


@contextlib.contextmanager
def track_stage(recipe: Recipe, settings: Settings, stage: Stage, artifact: Artifact) -> Iterator[ProgressCallback]:
    """Yield the progress callback for `Stage.run` that logs to the trackers; log the scores at the end.

    Nothing is written for a stage that is done already, or that has no metrics.
    """
    config = recipe.model_dump(mode="json", include=set(stage.config_sections))
    root = tracking_folder(settings, artifact.store)
    trackers = TrackerGroup(TrackedRun(recipe.name, stage.name, artifact.key, config, root), settings.trackers)
    finished = False
    try:
        yield trackers
        if trackers.called and stage.name == "evaluation":
            _log_scores(trackers, artifact, recipe.evaluation.checkpoint or 0)
        finished = True
    finally:
        trackers.close(finished=finished)


def tracking_folder(settings: Settings, store: Store) -> Path:
    """Return the folder for `tensorboard --logdir`: beside a local store's artifacts, or below the scratch folder."""
    if settings.tracking_folder is not None:
        return Path(settings.tracking_folder).expanduser()
    return store.local_path("tracking") or Path(settings.scratch).expanduser() / "tracking"


class TrackerGroup:
    """The trackers of one run, opened with the first metric; one that fails is dropped."""

    def __init__(self, run: TrackedRun, remote: Sequence[str]) -> None:
        self._run, self._remote = run, remote
        self._trackers: dict[str, Tracker] | None = None
        self.called = False

    def __call__(self, progress: Progress) -> None:
        self.called = True
        if progress.metrics:
            self.log_metrics(progress.done, progress.metrics)
        if progress.previews:
            student = self._run.stage
            self.log_images([SampleImage(student, each.caption, each.png, each.step) for each in progress.previews])

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._each(lambda tracker: tracker.log_metrics(step, metrics))

    def log_images(self, images: Sequence[SampleImage]) -> None:
        """Log sample images beside the scores."""
        self._each(lambda tracker: tracker.log_images(images))

    def close(self, *, finished: bool) -> None:
        """End the run, if it was ever opened."""
        if self._trackers is not None:
            self._each(lambda tracker: tracker.close(finished=finished))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        if self._trackers is None:
            self._trackers = {}
            with _dropping("TensorBoard"):
                self._trackers["TensorBoard"] = TensorBoard(self._run)
            for name in self._remote:
                self._trackers[name] = BackgroundTracker(name, partial(REMOTE[name], self._run))
            others = f"; also in {', '.join(self._remote)}" if self._remote else ""
            logger.info("%s: for its curves: tensorboard --logdir %s%s", self._run.stage, self._run.root, others)
        for name, tracker in list(self._trackers.items()):
            del self._trackers[name]
            with _dropping(name):
                call(tracker)
                self._trackers[name] = tracker


class BackgroundTracker:
    """A tracker in a thread of its own: opening a run on a dead server blocks for minutes in W&B and MLflow."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name, self._open_tracker = name, open_tracker
        self._calls = queue.SimpleQueue[Callable[[Tracker], None] | None]()
        run = contextvars.copy_context().run  # its log lines belong to the caller's flow run
        self._thread = threading.Thread(target=run, args=(self._work,), name=name, daemon=True)
        self._thread.start()

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._calls.put(lambda tracker: tracker.log_metrics(step, metrics))

    def log_images(self, images: Sequence[SampleImage]) -> None:
        self._calls.put(lambda tracker: tracker.log_images(images))

    def close(self, *, finished: bool) -> None:
        """End the run, and wait until everything is sent, up to a timeout."""
        self._calls.put(lambda tracker: tracker.close(finished=finished))
        self._calls.put(None)
        seconds = CLOSE_TIMEOUT_SECONDS
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("%s has not taken all of this stage within %.0f s; the run goes on", self._name, seconds)

    def _work(self) -> None:
        with _dropping(self._name):
            tracker: Tracker | None = None
            while (call := self._calls.get()) is not None:
                tracker = tracker or self._open_tracker()
                call(tracker)


@contextlib.contextmanager
def _dropping(name: str) -> Iterator[None]:
    """Log an error instead of raising it: the caller drops the tracker, and the stage goes on."""
    try:
        yield
    except Exception as error:  # any error of a library whose disk is full or whose server is gone
        logger.warning("%s shows no more of this stage, which goes on without it: %s", name, error)


def _log_scores(trackers: TrackerGroup, evaluation: Artifact, step: int) -> None:
    """Log a finished evaluation's scores and sample images; `step`: of the kept checkpoint that it scores, else 0."""
    metrics = evaluation.manifest().metrics
    scores = {
        f"{student}/{name}": score["value"]
        for student, table in metrics["scores"].items()
        for name, score in (table or {}).items()
    }
    scores |= {f"{student}/clip_score": score["value"] for student, score in metrics.get("clip_score", {}).items()}
    for student, found in metrics.get("references", {}).items():
        scores |= {f"{student}/retrieval_{top}": found[top]["value"] for top in ("top_1", "top_5")}
        scores[f"{student}/frechet_distance"] = found["frechet_distance"]
    if scores:
        trackers.log_metrics(step, scores)
    # Each student's image of each category's first caption.
    labels = read_table(evaluation, "^samples", ["student", "category"]).to_pylist()
    first: dict[tuple[str, str], int] = {}
    for index, label in enumerate(labels):
        first.setdefault((label["student"], label["category"]), index)
    rows = take_rows(evaluation, "^samples", sorted(first.values()), ["student", "caption", "image"]).to_pylist()
    trackers.log_images([SampleImage(row["student"], row["caption"], row["image"]["bytes"], step) for row in rows])
