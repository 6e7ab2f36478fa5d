"""Shows a stage while it is made: curves of what trains, scores and pictures of what is evaluated.

What trackers show is a copy of what artifacts hold. So one that fails is reported and left out, and the stage goes on.
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
from tasks.context.progress import Progress, Watch
from tasks.stage import Stage
from tasks.tracking.trackers import REMOTE, Picture, Subject, TensorBoard, Tracker

log = logging.getLogger("lightgen")

PATIENCE = 120.0
"""Seconds for which a stage's end waits until a tracker on another machine has taken what it was told."""


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
            here = Spared("TensorBoard", partial(TensorBoard, subject))
            self._open = [here, *(Aside(name, partial(REMOTE[name], subject)) for name in self._remote)]
            beside = f"; also in {', '.join(self._remote)}" if self._remote else ""
            log.info("%s: for its curves: tensorboard --logdir %s%s", subject.stage, root, beside)
        return self._open

    def close(self) -> None:
        for tracker in self._open:
            tracker.close(finished=self.finished)


class Spared:
    """A tracker that whoever trains does not fail with: the first time that it does, it is left out."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name, self._open_tracker = name, open_tracker
        self._tracker: Tracker | None = None
        self._lost = False

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.figures(step, figures))

    def pictures(self, pictures: Sequence[Picture]) -> None:
        self._tell(lambda tracker: tracker.pictures(pictures))

    def close(self, *, finished: bool) -> None:
        self._tell(lambda tracker: tracker.close(finished=finished))

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        if self._lost:
            return
        try:
            self._tracker = self._tracker or self._open_tracker()
            tell(self._tracker)
        except Exception as error:  # whatever a library raises where its disk is full or its server gone
            self._lost = True
            log.warning("%s shows no more of this stage, which goes on without it: %s", self._name, error)


class Aside(Spared):
    """One behind a thread of its own: whoever trains does not wait for it either, and at the end not for long."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        super().__init__(name, open_tracker)
        self._told = queue.SimpleQueue[Callable[[Tracker], None] | None]()
        work = contextvars.copy_context().run  # what it logs belongs to the caller's run
        self._thread = threading.Thread(target=work, args=(self._listen,), name=name, daemon=True)
        self._thread.start()

    def close(self, *, finished: bool) -> None:
        """End the run, and wait until what was told has arrived, unless that takes too long."""
        super().close(finished=finished)
        self._told.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.warning("%s has not taken all of this stage within %.0f s; the run goes on", self._name, PATIENCE)

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        self._told.put(tell)

    def _listen(self) -> None:
        while (tell := self._told.get()) is not None:
            super()._tell(tell)


def _show_scores(shown: _Shown, artifact: Artifact) -> None:
    """Show what a finished evaluation measured, and what the students drew."""
    figures = artifact.manifest().metrics
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
