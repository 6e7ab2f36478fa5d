"""Shows a stage while it is made: curves of what trains, scores and pictures of what is evaluated.

What trackers show is a copy of what artifacts hold. So a tracker on another machine that fails is reported and left
out, and the stage goes on; TensorBoard's files have all of it.
"""

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.rows import take_rows
from storage.store import Store
from storage.tables import read_table
from tasks.progress import Progress, Watch
from tasks.recipe import Recipe
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.trackers import REMOTE, Picture, Subject, TensorBoard, Tracker

log = logging.getLogger("lightgen")


@contextlib.contextmanager
def tracked(recipe: Recipe, settings: Settings, stage: Stage, artifact: Artifact) -> Iterator[Watch]:
    """Give the watcher for `Stage.make` that shows this making, and show the scores when it is done.

    Nothing is written for a stage that is done already, or that has no figures to show.
    """
    config = recipe.model_dump(mode="json", include=set(stage.reads))
    subject = Subject(recipe.name, stage.name, artifact.key, config, tracking_folder(settings, artifact.store))
    shown = _Shown(subject, settings.trackers)
    try:
        yield shown
        if shown.heard:
            _show_scores(shown, artifact)
        shown.finished = True
    finally:
        shown.close()


def tracking_folder(settings: Settings, store: Store) -> Path:
    """Return the folder for `tensorboard --logdir`: beside a local store's artifacts, or below the scratch folder."""
    if settings.tracking_folder is not None:
        return Path(settings.tracking_folder).expanduser()
    return store.local_path("tracking") or Path(settings.scratch).expanduser() / "tracking"


class _Shown:
    """A making as its trackers show it; they are opened when there is something to show."""

    def __init__(self, subject: Subject, remote: Sequence[str]) -> None:
        self._subject, self._remote = subject, remote
        self._open: list[Tracker] = []
        self.heard = self.finished = False

    def __call__(self, progress: Progress) -> None:
        self.heard = True
        if progress.figures:
            for tracker in self.trackers():
                tracker.figures(progress.done, progress.figures)

    def trackers(self) -> Sequence[Tracker]:
        if not self._open:
            subject, root = self._subject, self._subject.root
            self._open = [TensorBoard(subject), *(Aside(name, partial(REMOTE[name], subject)) for name in self._remote)]
            beside = f"; also in {', '.join(self._remote)}" if self._remote else ""
            log.info("%s: for its curves: tensorboard --logdir %s%s", subject.stage, root, beside)
        return self._open

    def close(self) -> None:
        for tracker in self._open:
            tracker.close(finished=self.finished)


class Aside:
    """A tracker behind a thread of its own: whoever trains neither waits for it nor fails with it."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name, self._lost = name, False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._tracker = self._submit(open_tracker)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.figures(step, figures))

    def pictures(self, pictures: Sequence[Picture]) -> None:
        self._tell(lambda tracker: tracker.pictures(pictures))

    def close(self, *, finished: bool) -> None:
        """End the run; waits until what was told has arrived."""
        self._tell(lambda tracker: tracker.close(finished=finished))
        self._thread.shutdown()

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        self._submit(lambda: None if self._lost else tell(self._tracker.result()))

    def _submit(self, work: Callable[[], Any]) -> Future:
        future, caller = self._thread.submit(work), contextvars.copy_context()
        future.add_done_callback(lambda done: caller.run(self._after, done))  # what it logs belongs to the caller's run
        return future

    def _after(self, future: Future) -> None:
        error = future.exception()
        if error is not None and not self._lost:
            self._lost = True
            log.warning("%s shows no more of this stage, which goes on without it: %s", self._name, error)


def _show_scores(shown: _Shown, artifact: Artifact) -> None:
    """Show what a finished evaluation measured, and what the students drew."""
    figures = artifact.manifest().figures
    if "scores" not in figures:
        return
    scores = {
        f"{who}/{name}": score["value"]
        for who, all_ in figures["scores"].items()
        for name, score in (all_ or {}).items()
    }
    scores |= {f"{who}/clip_score": score["value"] for who, score in figures.get("clip_score", {}).items()}
    pictures = _samples(artifact)
    for tracker in shown.trackers():
        if scores:
            tracker.figures(0, scores)
        tracker.pictures(pictures)


def _samples(evaluation: Artifact) -> list[Picture]:
    """Return what each student drew of each category's first caption."""
    about = read_table(evaluation, "^samples", ["student", "category"]).to_pylist()
    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(about):
        first.setdefault((row["student"], row["category"]), place)
    rows = take_rows(evaluation, "^samples", sorted(first.values()), ["student", "caption", "image"]).to_pylist()
    return [Picture(row["student"], row["caption"], row["image"]["bytes"]) for row in rows]
