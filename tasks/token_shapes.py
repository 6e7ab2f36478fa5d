"""Shapes of the latents in finished token files, and the one that a student samples by default."""

from typing import Any, NamedTuple

import numpy as np

from storage.artifact import Artifact
from storage.tables import layout_metadata, read_table
from tasks.context.reuse import file_prefix
from tasks.dedup import KEEP_FILE
from tasks.token_files import token_files_regex


class TokenShape(NamedTuple):
    """The files of a size that hold one shape: start of their names, layout, and rows that dedup keeps."""

    prefix: str
    layout: dict[str, Any]
    kept: int


def layout_of(tokens: Artifact, pattern: str) -> dict[str, Any]:
    """Return the layout of the first file whose name matches."""
    return layout_metadata(read_table(tokens, tokens.names(pattern)[0], ["id"]).schema)


def token_shapes(tokens: Artifact, dedup: Artifact, size: int | None) -> list[TokenShape]:
    """Return the shapes of a size of `tokens.sizes` (None: no sizes): one, or one of each bucket."""
    verdicts = read_table(dedup, KEEP_FILE, ["id", "kept"])
    kept, shapes = verdicts["id"].filter(verdicts["kept"].combine_chunks()).to_numpy(), []
    for prefix in sorted({file_prefix(name) for name in tokens.names(token_files_regex(size))}):
        ids = read_table(tokens, f"^{prefix}-[0-9]+[.]", ["id"])["id"].to_numpy()
        shapes.append(TokenShape(prefix, layout_of(tokens, f"^{prefix}-[0-9]+[.]"), int(np.isin(ids, kept).sum())))
    return shapes


def default_layout(shapes: list[TokenShape]) -> dict[str, Any]:
    """Return the layout that a student samples by default: the square if it has kept rows, else that with most."""

    def rank(shape: TokenShape) -> tuple[bool, int]:
        return shape.kept > 0 and shape.layout["height"] == shape.layout["width"], shape.kept

    return max(shapes, key=rank).layout
