"""Batches for a few-step head, from Parquet files of what the full sampler did.

A row is a token of an image: `id` (int64, of its text) and `guidance` (float32); as half-precision bytes `states`, and
`noise` and `tokens`, samples x values each. The schema metadata key `lightgen` holds `dtype`, `width` and `samples`.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightgen_core.data.batches import Examples
from lightgen_core.data.row_order import RowOrder
from lightgen_core.data.token_file import DataError
from lightgen_core.encoders.dtypes import DTYPES

VALUES = ("states", "noise", "tokens")
"""Columns of half-precision bytes."""


@dataclass(frozen=True)
class DistilBatch(Examples):
    """guidance (rows,), states (rows, width), noise and tokens (rows, samples, values)."""

    guidance: Tensor
    states: Tensor
    noise: Tensor
    tokens: Tensor


class DistilSource:
    """Rows in memory, in an endless order that is a pure function of the seed and the step."""

    def __init__(self, table: pa.Table, batch_size: int, seed: int) -> None:
        """Copy the rows of a table. Raises DataError if it has none."""
        if not len(table):
            raise DataError("there is no row for a few-step head to learn from; run the stage distil_head again")
        layout = json.loads(table.schema.metadata[b"lightgen"])
        self.rows, self.batch_size = len(table), batch_size
        self._ids, guidance = table["id"].to_numpy(), torch.from_numpy(table["guidance"].to_numpy().copy())
        states, noise, tokens = (_values(table[name], layout["dtype"]) for name in VALUES)
        shape = (layout["samples"], -1)
        self._tensors = {"guidance": guidance, "states": states}
        self._tensors |= {"noise": noise.unflatten(1, shape), "tokens": tokens.unflatten(1, shape)}
        self._order = RowOrder(np.arange(self.rows), None, seed)

    @property
    def variance(self) -> tuple[float, float]:
        """Mean variance of a token's values over all rows, and over the noises of one state alone."""
        tokens = self._tensors["tokens"].double()
        return float(tokens.flatten(0, 1).var(dim=0).mean()), float(tokens.var(dim=1).mean())

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> DistilBatch:
        """Return rows `start` to `stop` (all) of a step's batch."""
        first = step * self.batch_size
        end = first + (self.batch_size if stop is None else stop)
        rows = self._order[range(first + start, end)]
        taken = {name: values[torch.from_numpy(rows)] for name, values in self._tensors.items()}
        return DistilBatch(ids=self._ids[rows], grid=(1, 1), **taken)


def _values(column: pa.ChunkedArray, dtype: str) -> Tensor:
    """Return a column of half-precision bytes, (rows, values)."""
    joined = bytearray(b"".join(column.to_pylist()))
    return torch.frombuffer(joined, dtype=torch.int16).view(DTYPES[dtype]).unflatten(0, (len(column), -1))
