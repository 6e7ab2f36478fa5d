"""Batches from pre-tokenized Parquet files, in an order that is a pure function of (seed, step).

Rows hold `id` (int64), `latents` (or `winner` and `loser`), `text` and `words`. Latents are channels x height x width
values as bytes; text is words x width values as bytes, ragged. The schema metadata key `lightgen` is a JSON object
with `dtype` ("float16" or "bfloat16"), `channels`, `height`, `width` and `text_width`.

The whole set is held in memory, in the files' dtype: a row costs 2 * (channels * height * width + words * text_width)
bytes, so 12,000 rows of the demo take 40 MB, while 2M rows at 256 px with FLAN-T5-XXL states (about 0.6 MB each) do
not fit; `memory_limit` says where the line is. Training only ever calls `batch(step)`, so a reader that streams row
groups can stand in for these classes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from torch import Tensor

from lightgen_core.mar.patch import patchify
from lightgen_core.train.order import rows_at

MEMORY_LIMIT = 16 << 30
Prepared = TypeVar("Prepared")
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class DataError(ValueError):
    """The files are not what training reads: says which file or row, and what was expected."""


@dataclass(frozen=True)
class _Examples:
    """Rows of one batch. `ids`, (rows,) int64, stay on the host; tensors have the row as their first dimension."""

    ids: np.ndarray

    def to(self, device: torch.device) -> Self:
        """The batch on a device, floats widened to float32 there: half the bytes cross the bus, without waiting."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value.pin_memory() if device.type == "cuda" else value
                value = value.to(device, non_blocking=True)
                moved[field.name] = value.float() if value.is_floating_point() else value
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch(_Examples):
    """tokens (rows, h*w, token width), text (rows, words, text width), text_mask (rows, words) bool: True is a word."""

    tokens: Tensor
    text: Tensor
    text_mask: Tensor


@dataclass(frozen=True)
class PairBatch(_Examples):
    """As `Batch`, with the tokens of the preferred image and of the other one for the same text."""

    winner: Tensor
    loser: Tensor
    text: Tensor
    text_mask: Tensor


class _Rows:
    """The rows of a set in memory: the part that images and pairs share."""

    columns: tuple[str, ...]

    def __init__(
        self,
        files: Sequence[str | Path] | ds.Dataset,
        *,
        patch: int,
        batch_size: int,
        seed: int,
        memory_limit: int = MEMORY_LIMIT,
    ):
        """Reads the files.

        Args:
            files: local Parquet files, in the order that numbers the rows, or a pyarrow dataset.
            patch: side of a token, latents; latents become tokens once, here.
            batch_size: rows of a batch.
            seed: key of the order.
            memory_limit: bytes that the set may take.

        Raises:
            DataError: no rows, missing columns or metadata, a row of the wrong size, or a set too large.
        """
        data = files if isinstance(files, ds.Dataset) else ds.dataset([str(file) for file in files], format="parquet")
        self._layout = _layout(data.schema, ("id", "text", "words", *self.columns))
        self.batch_size, self.seed = batch_size, seed
        self.rows = data.count_rows()
        if not self.rows:
            raise DataError("the token files hold no rows; the stage that wrote them dropped everything")
        parts = list(_parts(data, self._layout, self.columns, self.rows, memory_limit))
        channels, height, width = self._layout["channels"], self._layout["height"], self._layout["width"]
        if height % patch or width % patch:
            raise DataError(f"latents of {height} x {width} do not divide into patches of {patch} x {patch}")
        self.grid = (height // patch, width // patch)
        self._ids = np.concatenate([part.ids for part in parts])
        self._words = torch.from_numpy(np.concatenate([part.words for part in parts]))
        self._starts = torch.cumsum(self._words, 0) - self._words
        self._text = torch.cat([part.text for part in parts]).view(-1, self._layout["text_width"])
        self._tokens = {
            name: torch.cat([patchify(part.latents[name].view(-1, channels, height, width), patch) for part in parts])
            for name in self.columns
        }

    def _rows_of(self, step: int) -> Tensor:
        first = step * self.batch_size
        return torch.from_numpy(rows_at(np.arange(first, first + self.batch_size), self.rows, self.seed))

    def _text_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Text padded with zeros to the longest in the batch, and the mask of its words."""
        words = self._words[rows]
        places = torch.arange(int(words.max()))
        mask = places < words[:, None]
        index = torch.where(mask, self._starts[rows][:, None] + places, 0)
        text = self._text.index_select(0, index.view(-1)).view(*index.shape, -1)
        return text.masked_fill_(~mask[..., None], 0), mask


class TokenSource(_Rows):
    """Images as tokens with their text, for pre-training."""

    columns = ("latents",)

    def batch(self, step: int) -> Batch:
        """The rows of update `step`: positions step * batch_size and on of the training order."""
        rows = self._rows_of(step)
        text, mask = self._text_of(rows)
        return Batch(self._ids[rows.numpy()], self._tokens["latents"].index_select(0, rows), text, mask)


class PairSource(_Rows):
    """Preference pairs: two images for one text, for DPO."""

    columns = ("winner", "loser")

    def batch(self, step: int) -> PairBatch:
        """The pairs of update `step`: positions step * batch_size and on of the training order."""
        rows = self._rows_of(step)
        text, mask = self._text_of(rows)
        winner, loser = (self._tokens[name].index_select(0, rows) for name in self.columns)
        return PairBatch(self._ids[rows.numpy()], winner, loser, text, mask)


def _layout(schema: pa.Schema, columns: Sequence[str]) -> dict:
    """The `lightgen` metadata of a schema, checked together with its columns."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise DataError(f"token files without column {', '.join(missing)}; found {', '.join(schema.names)}")
    found = (schema.metadata or {}).get(b"lightgen")
    if found is None:
        raise DataError("token files without the schema metadata `lightgen`; they were not written by the tokens stage")
    layout = json.loads(found)
    wanted = {"dtype", "channels", "height", "width", "text_width"}
    if wanted - layout.keys() or layout["dtype"] not in _DTYPES:
        raise DataError(f"metadata `lightgen` is {layout}; expected {sorted(wanted)}, dtype one of {sorted(_DTYPES)}")
    return layout


@dataclass(frozen=True)
class _Part:
    """The rows of one record batch, flat."""

    ids: np.ndarray
    words: np.ndarray
    text: Tensor
    latents: dict[str, Tensor]


def _parts(data: ds.Dataset, layout: dict, columns: tuple[str, ...], rows: int, memory_limit: int) -> Iterator[_Part]:
    """Record batches as tensors. Raises DataError as soon as the set, at the rate seen so far, cannot fit in memory."""
    dtype, text_width = _DTYPES[layout["dtype"]], layout["text_width"]
    values = layout["channels"] * layout["height"] * layout["width"]
    seen = size = 0
    for batch in data.to_batches(columns=["id", "text", "words", *columns]):
        if not batch.num_rows:
            continue
        ids = batch["id"].to_numpy(zero_copy_only=False).astype(np.int64)
        words = batch["words"].to_numpy(zero_copy_only=False).astype(np.int64)
        if words.min() < 1:
            raise DataError(f"row {ids[words.argmin()]} has no words; expected one or more")
        text = _values(batch["text"], words * text_width, ids, "text", dtype)
        fixed = np.full(len(ids), values)
        latents = {name: _values(batch[name], fixed, ids, name, dtype) for name in columns}
        seen, size = seen + len(ids), size + batch.nbytes
        if size / seen * rows > memory_limit:
            raise DataError(
                f"{rows} rows take about {size / seen * rows / 2**30:.1f} GiB, above the limit of "
                f"{memory_limit / 2**30:.1f} GiB; train on fewer rows or raise memory_limit"
            )
        yield _Part(ids, words, text, latents)


def _values(column: pa.Array, expected: np.ndarray, ids: np.ndarray, name: str, dtype: torch.dtype) -> Tensor:
    """The values of a binary column, one after another, after a check of every row's size."""
    column = column.cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64, count=len(column) + 1, offset=column.offset * 8)
    sizes = np.diff(offsets)
    wrong = np.flatnonzero((sizes != expected * dtype.itemsize) | column.is_null().to_numpy(zero_copy_only=False))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{name} of row {ids[row]} has {sizes[row]} bytes; expected {expected[row] * dtype.itemsize} "
            f"({expected[row]} values of {dtype}): the file does not match its metadata, make it again"
        )
    first, last = int(offsets[0]), int(offsets[-1])
    content = np.frombuffer(column.buffers()[2], dtype=np.uint8, count=last - first, offset=first)
    return torch.from_numpy(content.copy()).view(dtype)


def prefetched(prepare: Callable[[int], Prepared], steps: range) -> Iterator[Prepared]:
    """prepare(step) for every step, each computed in a thread while the step before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        upcoming = [reader.submit(prepare, step) for step in steps[:1]]
        for step in steps:
            ready = upcoming.pop().result()
            if step + 1 in steps:
                upcoming.append(reader.submit(prepare, step + 1))
            yield ready
