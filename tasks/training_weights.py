"""The rows that a phase of training sees, with the weights of their sources."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.tables import read_table, to_parquet
from tasks.config.curriculum import SourceWeights
from tasks.context.context import StageContext
from tasks.dedup import KEEP_FILE
from tasks.synthesis import source_fields


def keep_list(ctx: StageContext, tokens: Artifact, dedup: Artifact, files: str, number: int) -> Path:
    """Return the file of the rows to train on in a phase, on token files whose names match, with their weights if any.

    Raises:
        ValueError: every kept row has weight 0.
    """
    weights = ctx.recipe.phases[number][1].weights
    if weights is None or not weights.columns():
        return ctx.local(dedup, KEEP_FILE)
    kept, rows = read_table(dedup, KEEP_FILE, ["id", "kept"]), _source_rows(ctx, tokens, files)
    kept = kept.filter(kept["kept"])
    ids, first = np.unique(rows["id"].to_numpy(), return_index=True)
    places = first[np.searchsorted(ids, kept["id"].to_numpy())]
    of_rows = _weights_of(rows, weights)[places]
    if not of_rows.any():
        raise ValueError(f"pretrain.weights of phase {number + 1} are 0 for every image that dedup keeps; raise one")
    path = ctx.scratch / f"keep-{number + 1}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_parquet(kept.append_column("weight", pa.array(of_rows, pa.float64()))))
    return path


def source_shares(ctx: StageContext, tokens: Artifact, dedup: Artifact, files: str, number: int) -> dict[str, dict]:
    """Return by column and name the share of each source among the rows that a phase sees; empty for one source."""
    if not source_fields(ctx.recipe):
        return {}
    verdicts = read_table(dedup, KEEP_FILE, ["id", "kept"])
    kept = verdicts["id"].filter(verdicts["kept"].combine_chunks()).to_numpy()
    rows = _source_rows(ctx, tokens, files)
    rows = rows.filter(pa.array(np.isin(rows["id"].to_numpy(), kept)))
    weights = _weights_of(rows, ctx.recipe.phases[number][1].weights or SourceWeights())
    shares: dict[str, dict] = {}
    for column in source_fields(ctx.recipe):
        names, codes = np.unique(rows[column].to_pylist(), return_inverse=True)
        sums = np.bincount(codes, weights=weights) / weights.sum()
        shares[column] = dict(zip(names.tolist(), sums.tolist(), strict=True))
    return shares


def _source_rows(ctx: StageContext, tokens: Artifact, files: str) -> pa.Table:
    return read_table(tokens, files, ["id", *source_fields(ctx.recipe)])


def _weights_of(rows: pa.Table, weights: SourceWeights) -> np.ndarray:
    """Return each row's weight, (rows,) float64."""
    result = np.ones(len(rows))
    for column, by_name in weights.columns().items():
        result *= [by_name.get(name, 1.0) for name in rows[column].to_pylist()]
    return result
