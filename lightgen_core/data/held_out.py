"""Rows that training never sees, each once, in parts of one shape: what a held-out loss is measured on."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightgen_core.data.batches import Batch, TokenSource
from lightgen_core.data.token_bucket import TokenBucket
from lightgen_core.seeds import derive_seed


class HeldOutRows(TokenSource):
    """A source whose `keep` are the rows put aside; parts of `batch_size` rows, the last of each shape shorter."""

    def __len__(self) -> int:
        return len(self._parts)

    def part(self, number: int) -> Batch:
        """Read a part; of several captions each row has one, which follows from the source's seed."""
        bucket, rows, captions = self._parts[number]
        fields = bucket.read(rows, captions)
        return Batch(tokens=fields.pop("latents"), **fields)

    @cached_property
    def _parts(self) -> list[tuple[TokenBucket, NDArray[np.int64], NDArray[np.int64]]]:
        """Each part's bucket, its rows, and the number of each row's caption."""
        parts, uniform = [], np.random.default_rng(derive_seed(self.seed, "caption"))
        for bucket in self._buckets:
            rows = np.sort(bucket.order.visited)
            captions = np.searchsorted(self._ends, uniform.random(len(rows)), side="right")
            for start in range(0, len(rows), self.batch_size):
                own = slice(start, start + self.batch_size)
                parts.append((bucket, rows[own], captions[own]))
        return parts
