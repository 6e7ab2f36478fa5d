"""Runs of a store with their frames, matches and maps, of which the latest are kept in memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from flows.browse.catalogue import Known, StoredRun, planned_run, read_catalogue, runs_of
from flows.browse.frame import Frame, Query, Rows, positions_of, select_rows
from flows.browse.projection import EmbeddingMap, project
from flows.browse.rows import ImageReader
from flows.browse.views import COLUMNS, PATTERNS, VIEWS, NotThere, View, build_frame, require
from flows.plan import Planner
from storage.store import Store

FRAMES, MATCHES, MAPS = 12, 64, 2
"""Frames, lists of matching rows, and maps that are kept."""


class Library:
    """Rows of a store that the page shows. It is read anew with `refresh`; nothing is ever written.

    Args:
        planner: of a recipe, whose run comes first.
        first: path of an artifact, the runs of which come first.
    """

    def __init__(self, store: Store, planner: Planner | None = None, first: str = "") -> None:
        self.store = store
        self._planner, self._first = planner, first
        self._known: Mapping[str, Known] = {}
        self._runs: dict[str, StoredRun] = {}
        self._images = ImageReader()
        self._frames = _Kept(FRAMES)
        self._matches = _Kept(MATCHES)
        self._maps = _Kept(MAPS)

    def refresh(self) -> list[StoredRun]:
        """Read the store's manifests and return its runs, the one to begin with first."""
        known = read_catalogue(self.store)
        runs = runs_of(known)
        runs.sort(key=lambda run: self._first not in {stage.artifact.path for stage in run.stages.values()})
        if self._planner:
            runs.insert(0, planned_run(self._planner))
        self._known, self._runs = known, {run.id: run for run in runs}
        return runs

    def run(self, name: str) -> StoredRun:
        """Return a run by its id. Raises NotThere."""
        if name not in self._runs:
            self.refresh()
        if name not in self._runs:
            raise NotThere(f"there is no run {name!r} in {self.store.uri}")
        return self._runs[name]

    def view(self, name: str) -> View:
        """Return a view by its name. Raises NotThere."""
        for view in VIEWS:
            if view.name == name:
                return view
        raise NotThere(f"there is no view {name!r}; there are {', '.join(view.name for view in VIEWS)}")

    def frame(self, run: StoredRun, view: View) -> Frame:
        """Return a view's frame. Raises NotThere."""
        return self._frames((view.name, _version(run, (*view.needs, *view.adds))), lambda: build_frame(view, run))

    def matches(self, run: StoredRun, view: View, query: Query) -> Rows:
        """Return the rows of a frame that match, in order. Raises NotThere, and KeyError for an unknown column."""
        key = (view.name, _version(run, (*view.needs, *view.adds)), query)
        return self._matches(key, lambda: select_rows(self.frame(run, view), query))

    def map(self, run: StoredRun) -> EmbeddingMap:
        """Return the map of a run's image embeddings; its `ids` are rows of the view of images. Raises NotThere."""
        require(run, ("synthesis", "embeddings"))
        return self._maps(("map", _version(run, ("embeddings", "synthesis"))), lambda: self._map(run))

    def _map(self, run: StoredRun) -> EmbeddingMap:
        images = self.frame(run, self.view("images")).table
        found = project(run.done("embeddings")["embeddings"])
        rows = positions_of(pa.chunked_array([found.ids]), images["id"])
        there = rows >= 0
        return EmbeddingMap(rows[there], found.points[there], found.explained, found.rows, found.step)

    def image(self, path: str, column: str, position: int) -> bytes:
        """Return the bytes of an image of an artifact. Raises NotThere."""
        stage = path.partition("/")[0]
        if column not in COLUMNS.get(stage, ()):
            raise NotThere(f"{path} has no images {column!r}")
        known = self._known.get(path) or self._planned(path)
        try:
            data = self._images.read(known, PATTERNS[stage], column, position)
        except IndexError as error:
            raise NotThere(str(error)) from error
        if data is None:
            raise NotThere(f"row {position} of {path} has no {column}")
        return data

    def _planned(self, path: str) -> Known:
        for run in list(self._runs.values()) or self.refresh():
            for known in run.stages.values():
                if known.artifact.path == path and known.manifest:
                    return known
        raise NotThere(f"{self.store.uri} has no finished {path}")


def colours(frame: Frame, rows: np.ndarray, name: str) -> dict[str, Any]:
    """Return what colours the points of a map by a column: classes with a code each, or numbers with their range."""
    values = frame.table[name].take(pa.array(rows)).combine_chunks()
    if name in frame.facets:
        listed = [value for value, _ in frame.facet_counts().get(name, [])][:11]
        codes = {value: code for code, value in enumerate(listed)}
        return {"classes": listed, "codes": [codes.get(value or "", len(listed)) for value in values.to_pylist()]}
    numbers = np.nan_to_num(values.to_numpy(zero_copy_only=False).astype(np.float64))
    low, high = (float(edge) for edge in np.quantile(numbers, (0.01, 0.99)))
    return {"low": low, "high": high, "values": np.round(numbers, 4).tolist()}


def _version(run: StoredRun, stages: tuple[str, ...]) -> Hashable:
    """Return text that changes when an artifact of these stages is made, or made again."""
    return tuple((known.artifact.path, known.version) for stage in stages for known in run.done(stage).values())


class _Kept:
    """The latest results, by key; each is computed once, whoever asks meanwhile waits for it."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.RLock()
        self._results: OrderedDict[Hashable, Any] = OrderedDict()

    def __call__(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._results:
                self._results[key] = compute()
            self._results.move_to_end(key)
            while len(self._results) > self._size:
                self._results.popitem(last=False)
            return self._results[key]
