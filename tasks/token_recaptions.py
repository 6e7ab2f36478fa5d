"""Recaptions as the stage tokens reads them: their ids as texts, and which hold for the mirror image."""

import numpy as np
import pyarrow as pa

from lightgen_core.images.flip import is_flip_safe
from lightgen_core.vlm.recaption import KINDS
from storage.artifact import Artifact
from storage.tables import read_file
from tasks.recaptions import recaption_file


def with_recaption_ids(synthesis: Artifact, images: str, rows: pa.Table) -> pa.Table:
    """Append columns `short_id` and `long_id`: ids of texts, the original's where there is no such caption."""
    recaptions = read_file(synthesis, recaption_file(images), KINDS)
    original = rows["caption_id"].to_numpy()
    for kind, ids in _text_ids(rows["id"].to_numpy()).items():
        missing = recaptions[kind].is_null().to_numpy()
        rows = rows.append_column(f"{kind}_id", pa.array(np.where(missing, original, ids)))
    return rows


def recaption_texts(synthesis: Artifact, recaptions: str) -> pa.Table:
    """Return `id` and `caption` of all captions in a file of recaptions."""
    rows = read_file(synthesis, recaptions, ["id", *KINDS])
    parts = [
        pa.table({"id": ids, "caption": rows[kind]}).filter(rows[kind].is_valid())
        for kind, ids in _text_ids(rows["id"].to_numpy()).items()
    ]
    return pa.concat_tables(parts)


def mirrors_hold(synthesis: Artifact, images: str) -> np.ndarray:
    """Return whether the recaptions of each image hold for its mirror image, (rows,) bool."""
    rows = read_file(synthesis, recaption_file(images), KINDS).to_pylist()
    return np.array([all(is_flip_safe(row[kind]) for kind in KINDS if row[kind]) for row in rows], bool)


def _text_ids(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return by kind the ids of images' texts: negative, so that they are no ids of captions."""
    return {kind: -(2 * images + 1 + number) for number, kind in enumerate(KINDS)}
