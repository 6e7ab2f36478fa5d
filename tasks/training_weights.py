"""The rows that a phase of training sees, with the weights of their sources."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.tables import read_table, to_parquet
from tasks.config.curriculum import SourceWeights
from tasks.context.context import StageContext
from tasks.dedup import KEEP_FILE
from tasks.pretrain_validation import HeldOut
from tasks.synthesis import source_fields
from tasks.token_files import RECAPTION_TEXT_FILES, TEXT_FILES, token_files_regex


class TrainingRows(NamedTuple):
    """The images that pre-training may see, and those of them that it puts aside."""

    tokens: Artifact
    dedup: Artifact
    held_out: HeldOut | None = None

    def kept(self) -> pa.Table:
        """Return id and kept of the images to train on."""
        kept = read_table(self.dedup, KEEP_FILE, ["id", "kept"])
        kept = kept.filter(kept["kept"])
        if self.held_out is None:
            return kept
        return kept.filter(pa.array(~np.isin(kept["id"].to_numpy(), self.held_out.ids)))


def rows_of(ctx: StageContext, data: TrainingRows, number: int) -> dict[str, Any]:
    """Return the fields of a `TrainingJob` that say which rows a phase of pre-training sees, with which captions."""
    size, config = ctx.recipe.phases[number]
    texts = [TEXT_FILES, *([RECAPTION_TEXT_FILES] if ctx.recipe.synthesis.recaption is not None else [])]
    return {
        "files": tuple(ctx.local(data.tokens, name) for name in data.tokens.names(token_files_regex(size))),
        "texts": tuple(ctx.local(data.tokens, name) for pattern in texts for name in data.tokens.names(pattern)),
        "keep": keep_list(ctx, data, token_files_regex(size), number),
        "caption_shares": config.caption_shares.columns() if config.caption_shares else {},
    }


def keep_list(ctx: StageContext, data: TrainingRows, files: str, number: int) -> Path:
    """Return the file of the rows to train on in a phase, on token files whose names match, with their weights if any.

    Raises:
        ValueError: every kept row has weight 0.
    """
    weights = ctx.recipe.phases[number][1].weights
    if weights is None or not weights.columns():
        if data.held_out is None:
            return ctx.local(data.dedup, KEEP_FILE)
        return _write(ctx, data.kept(), number)
    kept, rows = data.kept(), _source_rows(ctx, data.tokens, files)
    ids, first = np.unique(rows["id"].to_numpy(), return_index=True)
    places = first[np.searchsorted(ids, kept["id"].to_numpy())]
    of_rows = weights_of_rows(rows, weights)[places]
    if not of_rows.any():
        raise ValueError(f"pretrain.weights of phase {number + 1} are 0 for every image that dedup keeps; raise one")
    return _write(ctx, kept.append_column("weight", pa.array(of_rows, pa.float64())), number)


def _write(ctx: StageContext, kept: pa.Table, number: int) -> Path:
    """Write a phase's keep list into the scratch folder."""
    path = ctx.scratch / f"keep-{number + 1}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_parquet(kept))
    return path


def source_shares(ctx: StageContext, data: TrainingRows, files: str, number: int) -> dict[str, dict]:
    """Return by column and name the share of each source among the rows that a phase sees; empty for one source."""
    if not source_fields(ctx.recipe):
        return {}
    kept, rows = data.kept()["id"].to_numpy(), _source_rows(ctx, data.tokens, files)
    rows = rows.filter(pa.array(np.isin(rows["id"].to_numpy(), kept)))
    weights = weights_of_rows(rows, ctx.recipe.phases[number][1].weights or SourceWeights())
    shares: dict[str, dict] = {}
    for column in source_fields(ctx.recipe):
        names, codes = np.unique(rows[column].to_pylist(), return_inverse=True)
        sums = np.bincount(codes, weights=weights) / weights.sum()
        shares[column] = dict(zip(names.tolist(), sums.tolist(), strict=True))
    return shares


def _source_rows(ctx: StageContext, tokens: Artifact, files: str) -> pa.Table:
    return read_table(tokens, files, ["id", *source_fields(ctx.recipe)])


def weights_of_rows(rows: pa.Table, weights: SourceWeights) -> np.ndarray:
    """Return each row's weight, (rows,) float64."""
    result = np.ones(len(rows))
    for column, by_name in weights.columns().items():
        result *= [by_name.get(name, 1.0) for name in rows[column].to_pylist()]
    return result
