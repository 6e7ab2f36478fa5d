"""Batches from pre-tokenized Parquet files, in an order that is a pure function of (seed, step).

Rows hold `id` (int64) and `latents` (or `winner` and `loser`), which are channels x height x width values as bytes. A
row's text is tokens x width values as bytes, ragged, in columns `text` and `text_length`: its own, or in other files
that of the row whose `id` is its `caption_id`, or the value of another such column. The schema metadata key `lightgen`
is a JSON object with `dtype` ("float16" or "bfloat16"), `channels`, `height`, `width` and `text_width`. With `moments`,
`latents` are means, and a column `std` of the same form holds their standard deviations. A column `features` holds
`feature_channels` values for each token of the grid.

Files may differ in height and width: rows of one shape are a bucket, and a batch is of one bucket (`bucket_turn`).

Only an index is held in memory (`data/row_reader.py`), and a batch reads only its rows. So a source's only state is the
step, and sets of any size train alike.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.data.row_order import RowOrder
from lightgen_core.data.row_reader import RowReader
from lightgen_core.data.shuffle import bucket_turn
from lightgen_core.data.token_bucket import TokenBucket
from lightgen_core.data.token_file import CAPTION_ID, FEATURES, DataError, has_moments
from lightgen_core.device import to_device
from lightgen_core.seeds import derive_seed

__all__ = ["Batch", "DataError", "Examples", "PairBatch", "PairSource", "TokenSource", "prefetch"]

Prepared = TypeVar("Prepared")

_SUMS = 1 << 20
"""Parts of a row of weight 1 in the sums of weights by which buckets take turns."""


@dataclass(frozen=True)
class Examples:
    """Rows of one batch. `ids`, (rows,) int64, stay on the host; tensors have the row as their first dimension.

    grid: (h, w) in tokens, of every image.
    """

    ids: np.ndarray
    grid: tuple[int, int]

    def to(self, device: torch.device) -> Self:
        """Move to a device without waiting, and widen floats to float32 there: half the bytes cross the bus."""
        moved = self.map_tensors(lambda tensor: to_device(tensor, device))
        return moved.map_tensors(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)

    def pin_memory(self) -> Self:
        """Copy to page-locked memory."""
        return self.map_tensors(lambda tensor: tensor.contiguous().pin_memory())

    def rows(self, start: int, stop: int) -> Self:
        """Return rows `start` to `stop`."""
        return replace(self.map_tensors(lambda tensor: tensor[start:stop]), ids=self.ids[start:stop])

    def largest(self) -> float:
        """Return the largest absolute number of its tensors, infinite if one of them is not a number."""
        tensors = (getattr(self, field.name) for field in fields(self))
        numbers = [float(each.float().abs().max()) for each in tensors if isinstance(each, Tensor)]
        return math.inf if any(map(math.isnan, numbers)) else max(numbers)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with every tensor changed."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        changes: dict[str, Any] = {name: change(value) for name, value in found.items() if isinstance(value, Tensor)}
        return replace(self, **changes)


@dataclass(frozen=True)
class Batch(Examples):
    """tokens (rows, h*w, token width), text (rows, text tokens, text width), text_mask (rows, text tokens) bool.

    std: as `tokens`, which are means then; None of a set without standard deviations.
    features: (rows, h*w, channels), of a frozen encoder; None where they are not read.
    """

    tokens: Tensor
    text: Tensor
    text_mask: Tensor
    std: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class PairBatch(Examples):
    """As `Batch`, with the tokens of the preferred image and of the other one for the same text."""

    winner: Tensor
    loser: Tensor
    text: Tensor
    text_mask: Tensor


class _Source:
    """Base of both sources: the order, the text, and the buckets."""

    columns: tuple[str, ...]
    moment_columns: tuple[str, ...] = ()
    """Columns to read beside those of a set with `moments`."""

    def __init__(
        self,
        files: Sequence[str | Path],
        *,
        patch: int,
        batch_size: int,
        seed: int,
        texts: Sequence[str | Path] = (),
        keep: NDArray[np.int64] | None = None,
        weights: NDArray[np.float64] | None = None,
        caption_shares: Mapping[str, float] | None = None,
        features: bool = False,
        scratch: Path | None = None,
    ):
        """Open the files; see `RowReader`.

        Args:
            patch: side of a token, latents.
            batch_size: rows of a step.
            seed: key of the order.
            texts: files of the text, unless each row holds its own.
            keep: ids of the rows to train on; None: all.
            weights: (keep,), how often a row comes compared with others; 0: never. None: all alike.
            caption_shares: share of the rows of a batch that come with the text of each column of ids of texts, over
                the sum of all; None: all with that of `caption_id`.
            features: also read the features of a frozen encoder.

        Raises:
            DataError: no rows, missing columns or metadata, a row of the wrong size, latents that do not divide, an id
                to keep or a caption that is in no file.
        """
        if any(has_moments(Path(file)) for file in files[:1]):
            self.columns = (*self.columns, *self.moment_columns)
        if features:
            self.columns = (*self.columns, FEATURES)
        shares = {name: share for name, share in (caption_shares or {CAPTION_ID: 1.0}).items() if share > 0}
        columns = self.columns if texts else (*self.columns, "text")
        readers = RowReader.of_each_shape(files, columns, scratch, tuple(shares))
        own_texts = RowReader(texts, ("text",), scratch) if texts else None
        kept = _kept_rows([reader.ids for reader in readers], keep, weights)
        of_rows = [(reader, *rows) for reader, rows in zip(readers, kept, strict=True) if len(rows[0])]
        self._buckets = [
            TokenBucket(
                reader,
                own_texts or reader,
                self.columns,
                patch,
                RowOrder(rows, weight, _seed_of(reader, seed, len(of_rows))),
            )
            for reader, rows, weight in of_rows
        ]
        self._bucket_sums = [round(_SUMS * bucket.order.total) for bucket in self._buckets]
        self.rows = sum(bucket.order.rows for bucket in self._buckets)
        self.feature_channels = readers[0].layout.feature_channels
        self._ends = np.cumsum(list(shares.values()))[:-1] / sum(shares.values())
        self.batch_size, self.seed = batch_size, seed
        self._prefetched: tuple[int, int, int | None] | None = None

    def largest(self, step: int) -> tuple[tuple[int, int], int]:
        """Return the grid of a step's images, (h, w) in tokens, and the longest text of their bucket, text tokens."""
        bucket = self._rows_of(step, 0, 1)[0]
        return bucket.grid, bucket.longest_text

    def _rows_of(self, step: int, start: int, stop: int | None) -> tuple[TokenBucket, NDArray[np.int64], Any]:
        """Return the bucket of a step, its rows start to stop of the batch, and the number of each row's caption."""
        number, turn = bucket_turn(step, self._bucket_sums, self.seed)
        bucket, captions = self._buckets[number], np.zeros(self.batch_size, np.int64)
        if len(self._ends):
            uniform = np.random.default_rng(derive_seed(self.seed, "caption", step)).random(self.batch_size)
            captions = np.searchsorted(self._ends, uniform, side="right")
        return bucket, bucket.rows_of(turn, self.batch_size)[start:stop], captions[start:stop]

    def _read(self, step: int, start: int, stop: int | None) -> dict[str, Any]:
        """Return the fields of a batch, and prefetch the rows of the next step."""
        bucket, *rows = self._rows_of(step, start, stop)
        if self._prefetched != (step, start, stop):
            bucket.prefetch(*rows)
        fields = bucket.read(*rows)
        following, *rows = self._rows_of(step + 1, start, stop)
        following.prefetch(*rows)
        self._prefetched = (step + 1, start, stop)
        return fields


class TokenSource(_Source):
    """Images as tokens with their text, for pre-training."""

    columns = ("latents",)
    moment_columns = ("std",)

    @property
    def moments(self) -> bool:
        """True if its batches hold standard deviations of their tokens."""
        return "std" in self.columns

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Read rows start to stop (default: all) of a step, of one bucket.

        They are those at n * batch_size and on of the bucket's order (`rows_at`), if n steps before were of the bucket.
        """
        fields = self._read(step, start, stop)
        return Batch(tokens=fields.pop("latents"), **fields)


class PairSource(_Source):
    """Preference pairs: two images for one text, for DPO."""

    columns = ("winner", "loser")

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> PairBatch:
        """Read as `TokenSource.batch`, with pairs for images."""
        return PairBatch(**self._read(step, start, stop))


def _seed_of(reader: RowReader, seed: int, buckets: int) -> int:
    """Return the key of a bucket's order; that of an only bucket is the source's."""
    return seed if buckets == 1 else derive_seed(seed, "bucket", reader.layout.height, reader.layout.width)


Rows = tuple[NDArray[np.int64], NDArray[np.float64] | None]


def _kept_rows(
    ids: Sequence[NDArray[np.int64]], keep: NDArray[np.int64] | None, weights: NDArray[np.float64] | None
) -> list[Rows]:
    """Return each bucket's rows whose ids are to be kept (None: all), a flipped one with its original, and weights.

    Raises DataError if an id is in no row, or no row has a weight.
    """
    if keep is None:
        return [(np.arange(len(own)), None) for own in ids]
    rows = [np.flatnonzero(np.isin(own, keep)) for own in ids]
    if missing := np.setdiff1d(keep, np.concatenate([own[kept] for own, kept in zip(ids, rows, strict=True)])).tolist():
        raise DataError(f"image {missing[0]} is to be kept and is in no token file; run the tokens stage again")
    if not sum(map(len, rows)):
        raise DataError("no row is to be kept; the dedup stage dropped everything")
    if weights is None:
        return [(kept, None) for kept in rows]
    order = np.argsort(keep)
    weighted: list[Rows] = []
    for own, kept in zip(ids, rows, strict=True):
        of_rows = weights[order[np.searchsorted(keep, own[kept], sorter=order)]]
        weighted.append((kept[of_rows > 0], of_rows[of_rows > 0]))
    if not sum(len(kept) for kept, _ in weighted):
        raise DataError("every row that is kept has weight 0; give one of its sources a weight above 0")
    return weighted


def prefetch(prepare: Callable[[int], Prepared], steps: range, depth: int = 1) -> Iterator[Prepared]:
    """Yield prepare(step) for every step, `depth` of them ahead in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        pending: deque[Future[Prepared]] = deque(reader.submit(prepare, step) for step in steps[:depth])
        for later in range(depth, depth + len(steps)):
            ready = pending.popleft().result()
            pending.extend(reader.submit(prepare, step) for step in steps[later : later + 1])
            yield ready
