"""Views of a run: which tables are joined to be looked at side by side."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.browse.catalogue import Known, StoredRun
from flows.browse.frame import Frame, ImageColumn, Rows, positions_of, taken, with_columns
from flows.browse.rows import read_columns

PATTERNS = {"synthesis": "^images", "pairs": "^pairs", "evaluation": "^samples"}
"""Files with images, by stage."""
COLUMNS = {"synthesis": ("image",), "pairs": ("winner_image", "loser_image"), "evaluation": ("image",)}
"""Columns of images, by stage."""

_SYNTHESIS = ("id", "caption", "topic", "meaning", "teacher", "source", "caption_source", "caption_id", "seed")
_DROPPED = ("id", "kept", "reason", "similarity", "value", "threshold", "duplicate_of")


class NotThere(Exception):
    """A view has nothing to show in this run; the message says why."""


@dataclass(frozen=True)
class View:
    """A view: the stages that it cannot do without, those that add columns, and how its frame is built."""

    name: str
    title: str
    needs: tuple[str, ...]
    build: Callable[[StoredRun], Frame]
    adds: tuple[str, ...] = ()


def build_frame(view: View, run: StoredRun) -> Frame:
    """Return a view's frame. Raises NotThere."""
    require(run, view.needs)
    return view.build(run)


def require(run: StoredRun, stages: tuple[str, ...]) -> None:
    """Raise NotThere if a stage of these is not done."""
    for stage in stages:
        if not run.done(stage):
            raise NotThere(run.why_not(stage))


def _known(run: StoredRun, stage: str) -> Known | None:
    return next(iter(run.done(stage).values()), None)


def _table(run: StoredRun, stage: str, pattern: str, columns: tuple[str, ...]) -> pa.Table:
    """Return columns of a stage that is done. Raises NotThere if it has no such file."""
    known = run.done(stage)[stage] if stage in run.done(stage) else _known(run, stage)
    assert known is not None, "the view needs it"
    table = read_columns(known, pattern, columns)
    if table is None:
        raise NotThere(f"{known.artifact.path} has no table {pattern.strip('^')}")
    return table


def _captions(run: StoredRun) -> Frame:
    table = _table(run, "captions", r"^captions\.parquet", ("id", "caption", "topic", "meaning", "source"))
    return Frame(table, search=("caption", "topic", "meaning"), facets=("topic", "source"))


def _dropped_captions(run: StoredRun) -> Frame:
    columns = ("caption", "reason", "detail", "topic", "location", "similarity", "duplicate_of")
    table = _table(run, "captions", r"^dropped\.parquet", columns)
    kept = _table(run, "captions", r"^captions\.parquet", ("id", "caption"))
    at = positions_of(table["duplicate_of"], kept["id"])
    table = table.add_column(1, "repeats", taken(kept["caption"], at))
    return Frame(table, search=("caption", "repeats", "detail"), facets=("reason", "topic"))


def _images(run: StoredRun) -> Frame:
    table = _table(run, "synthesis", "^images", _SYNTHESIS)
    known = _known(run, "synthesis")
    assert known is not None
    columns: dict[str, pa.Array] = {}
    if recaptions := read_columns(known, "^recaptions", ("id", "short", "long")):
        at = positions_of(table["id"], recaptions["id"])
        columns |= {name: taken(recaptions[name], at) for name in recaptions.column_names if name != "id"}
    if dedup := _known(run, "dedup"):
        columns |= _verdicts(table["id"], dedup)
    if embeddings := _known(run, "embeddings"):
        scores = read_columns(embeddings, "^embeddings", ("id", "score"))
        assert scores is not None
        columns["clip_score"] = taken(scores["score"], positions_of(table["id"], scores["id"]))
    table = with_columns(table, columns)
    image = ImageColumn("image", known, "image", np.arange(len(table)))
    search = ("caption", "topic", "meaning", "short", "long", "source")
    return Frame(table, (image,), search, ("verdict", "topic", "teacher", "caption_source"))


def _verdicts(ids: pa.ChunkedArray, dedup: Known) -> dict[str, pa.Array]:
    """Return the verdict on each image, and the judge's score and answer where there is a judge."""
    keep = read_columns(dedup, "^keep", ("id", "kept", "reason"))
    assert keep is not None, "a finished dedup has it"
    verdict = pc.if_else(keep["kept"], "kept", pc.fill_null(keep["reason"], "dropped"))
    columns = {"verdict": taken(verdict, positions_of(ids, keep["id"]))}
    if judged := read_columns(dedup, "^judgements", ("id", "score", "answer")):
        at = positions_of(ids, judged["id"])
        columns |= {f"judge_{name}": taken(judged[name], at) for name in ("score", "answer")}
    return columns


def _dropped_images(run: StoredRun, only_pairs: bool = False) -> Frame:
    keep = _table(run, "dedup", "^keep", _DROPPED)
    mask = pc.invert(keep["kept"])
    keep = keep.filter(pc.and_(mask, pc.is_valid(keep["duplicate_of"])) if only_pairs else mask).drop_columns("kept")
    images = _table(run, "synthesis", "^images", ("id", "caption", "topic"))
    own, twin = (positions_of(keep[name], images["id"]) for name in ("id", "duplicate_of"))
    table = keep.add_column(1, "caption", taken(images["caption"], own))
    table = table.add_column(2, "kept_caption", taken(images["caption"], twin))
    table = table.append_column("topic", taken(images["topic"], own))
    known = _known(run, "synthesis")
    assert known is not None
    columns = (ImageColumn("dropped", known, "image", own), ImageColumn("kept", known, "image", twin))
    return Frame(table, columns, ("caption", "kept_caption", "reason"), ("reason", "topic"))


def _quarantine(run: StoredRun) -> Frame:
    table = _table(run, "synthesis", "^quarantine", ("id", "caption", "reason", "detail", "source"))
    return Frame(table, search=("caption", "detail", "source"), facets=("reason",))


def _pairs(run: StoredRun) -> Frame:
    columns = ("id", "caption", "topic", "kind", "winner_sample", "loser_sample")
    tables: list[pa.Table] = []
    frames: list[tuple[Known, int]] = []
    for label, known in run.done("pairs").items():
        table = read_columns(known, "^pairs", columns)
        if table is not None:
            tables.append(table.append_column("round", pa.array([label] * len(table), pa.string())))
            frames.append((known, len(table)))
    if not tables:
        raise NotThere("no round of preference tuning has pairs")
    images = _round_images(frames)
    joined = pa.concat_tables(tables, promote_options="default").combine_chunks()
    return Frame(joined, images, ("caption", "topic"), ("round", "kind", "topic"))


def _round_images(rounds: list[tuple[Known, int]]) -> tuple[ImageColumn, ...]:
    """Return winners and losers; rows of several rounds lie in several artifacts, so each has columns of its own."""
    total, start, found = sum(count for _, count in rounds), 0, []
    for known, count in rounds:
        positions: Rows = np.full(total, -1, dtype=np.int64)
        positions[start : start + count] = np.arange(count)
        start += count
        found += [ImageColumn(name, known, f"{name}_image", positions) for name in ("winner", "loser")]
    return tuple(found)


def _samples(run: StoredRun) -> Frame:
    columns = ("id", "caption", "correct", "category", "student", "seed", "prompt", "meaning")
    table = _table(run, "evaluation", "^samples", columns)
    verdict = pc.fill_null(pc.if_else(table["correct"], "right", "wrong"), "not judged")
    table = table.set_column(2, "verdict", verdict)
    known = _known(run, "evaluation")
    assert known is not None
    image = ImageColumn("sample", known, "image", np.arange(len(table)))
    return Frame(table, (image,), ("caption", "meaning"), ("verdict", "category", "student"))


VIEWS = (
    View("captions", "Captions", ("captions",), _captions),
    View("dropped-captions", "Dropped captions", ("captions",), _dropped_captions),
    View("images", "Images", ("synthesis",), _images, ("embeddings", "dedup")),
    View("quarantine", "Quarantine", ("synthesis",), _quarantine),
    View("dropped", "Dropped images", ("dedup", "synthesis"), _dropped_images),
    View("duplicates", "Near duplicates", ("dedup", "synthesis"), lambda run: _dropped_images(run, only_pairs=True)),
    View("pairs", "Preference pairs", ("pairs",), _pairs),
    View("samples", "Samples", ("evaluation",), _samples),
)
