"""Batches from pre-tokenized Parquet files, in an order that is a pure function of (seed, step).

Rows hold `id` (int64) and `latents` (or `winner` and `loser`), which are channels x height x width values as bytes. A
row's text is tokens x width values as bytes, ragged, in columns `text` and `text_length`: its own, or in other files
that of the row whose `id` is its `caption_id`. The schema metadata key `lightgen` is a JSON object with `dtype`
("float16" or "bfloat16"), `channels`, `height`, `width` and `text_width`. With `moments`, `latents` are means, and a
column `std` of the same form holds their standard deviations.

Only an index is held in memory (`data/row_reader.py`), and a batch reads only its rows. So a source's only state is the
step, and sets of any size train alike.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.data.row_reader import RowReader
from lightgen_core.data.shuffle import rows_at
from lightgen_core.data.token_file import DataError, has_moments
from lightgen_core.model.patchify import patchify

__all__ = ["Batch", "DataError", "PairBatch", "PairSource", "TokenSource", "prefetch"]

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class _Examples:
    """Rows of one batch. `ids`, (rows,) int64, stay on the host; tensors have the row as their first dimension."""

    ids: np.ndarray

    def to(self, device: torch.device) -> Self:
        """Move to a device without waiting, and widen floats to float32 there: half the bytes cross the bus."""
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
    """tokens (rows, h*w, token width), text (rows, text tokens, text width), text_mask (rows, text tokens) bool.

    std: as `tokens`, which are means then; None of a set without standard deviations.
    """

    tokens: Tensor
    text: Tensor
    text_mask: Tensor
    std: Tensor | None = None


@dataclass(frozen=True)
class PairBatch(_Examples):
    """As `Batch`, with the tokens of the preferred image and of the other one for the same text."""

    winner: Tensor
    loser: Tensor
    text: Tensor
    text_mask: Tensor


class _Source:
    """Base of both sources: the order, the text, and latents as tokens."""

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
        scratch: Path | None = None,
    ):
        """Open the files; see `RowReader`.

        Args:
            patch: side of a token, latents.
            batch_size: rows of a step.
            seed: key of the order.
            texts: files of the text, unless each row holds its own.
            keep: ids of the rows to train on; None: all.

        Raises:
            DataError: no rows, missing columns or metadata, a row of the wrong size, latents that do not divide, an id
                to keep or a caption that is in no file.
        """
        if any(has_moments(Path(file)) for file in files[:1]):
            self.columns = (*self.columns, *self.moment_columns)
        self._rows = RowReader(files, self.columns if texts else (*self.columns, "text"), scratch)
        self._texts = RowReader(texts, ("text",), scratch) if texts else self._rows
        self._kept = np.arange(len(self._rows)) if keep is None else _rows_with_ids(self._rows.ids, keep)
        self._text_rows = self._find_texts()
        layout = self._rows.layout
        if layout.height % patch or layout.width % patch:
            raise DataError(
                f"latents of {layout.height} x {layout.width} do not divide into patches of {patch} x {patch}"
            )
        self.grid = (layout.height // patch, layout.width // patch)
        self.rows = len(self._kept)
        self.batch_size, self.seed = batch_size, seed
        self._patch = patch
        self._prefetched: tuple[int, int, int | None] | None = None
        values = layout.channels * layout.height * layout.width
        tokens = patchify(torch.arange(values).view(1, layout.channels, layout.height, -1), patch)[0]
        self._token_shape = tokens.shape
        # A patch's values lie in runs of `patch`; moving runs whole is ten times as fast as moving values.
        self._runs = (tokens.reshape(-1)[::patch] // patch).numpy()

    def _find_texts(self) -> NDArray[np.int64]:
        """Return the row of `_texts` for each row; DataError if there is none."""
        wanted = self._rows.caption_ids
        if wanted is None:
            return np.arange(len(self._rows))
        dtype, other = self._rows.layout.dtype, self._texts.layout.dtype
        if dtype != other:
            raise DataError(f"found latents of {dtype} and text of {other}; expected one type of both")
        order = np.argsort(self._texts.ids)
        found = order[np.searchsorted(self._texts.ids, wanted, sorter=order) % len(order)]
        if (missing := self._texts.ids[found] != wanted).any():
            raise DataError(
                f"the text of caption {wanted[missing][0]} is in no file of texts; run the tokens stage again"
            )
        return found

    def _read(self, step: int, start: int, stop: int | None) -> dict[str, Any]:
        """Return the fields of a batch, and prefetch the rows of the next step."""
        rows, following = (
            self._kept[_rows_of(s, self.batch_size, self.rows, self.seed)[start:stop]] for s in (step, step + 1)
        )
        if self._prefetched != (step, start, stop):
            self._prefetch(rows)
        fields: dict[str, Any] = {"ids": self._rows.ids[rows]}
        text_rows, text_width = self._text_rows[rows], self._texts.layout.text_width
        lengths = torch.from_numpy(self._texts.text_lengths(text_rows))
        longest = int(lengths.max())
        text = _values(self._texts, "text", text_rows, longest * text_width)  # padded with zeros
        fields["text"] = self._as_tensor(text).view(len(rows), longest, text_width)
        fields["text_mask"] = torch.arange(longest) < lengths[:, None]
        for column in self.columns:
            latents = _values(self._rows, column, rows, self._token_shape.numel())
            tokens = latents.view(f"V{2 * self._patch}").take(self._runs, axis=1)
            fields[column] = self._as_tensor(tokens).view(len(rows), *self._token_shape)
        self._prefetch(following)
        self._prefetched = (step + 1, start, stop)
        return fields

    def _prefetch(self, rows: NDArray[np.int64]) -> None:
        self._rows.prefetch(rows)
        if self._texts is not self._rows:
            self._texts.prefetch(self._text_rows[rows])

    def _as_tensor(self, data: np.ndarray) -> Tensor:
        return torch.from_numpy(data.view(np.int16)).view(self._rows.layout.torch_dtype)


class TokenSource(_Source):
    """Images as tokens with their text, for pre-training."""

    columns = ("latents",)
    moment_columns = ("std",)

    @property
    def moments(self) -> bool:
        """True if its batches hold standard deviations of their tokens."""
        return "std" in self.columns

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Read rows start to stop (default: all) of a step, at step * batch_size and on of the order (`rows_at`)."""
        fields = self._read(step, start, stop)
        return Batch(tokens=fields.pop("latents"), **fields)


class PairSource(_Source):
    """Preference pairs: two images for one text, for DPO."""

    columns = ("winner", "loser")

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> PairBatch:
        """Read as `TokenSource.batch`, with pairs for images."""
        return PairBatch(**self._read(step, start, stop))


def _values(reader: RowReader, column: str, rows: NDArray[np.int64], values: int) -> NDArray[np.uint8]:
    """Return a column as bytes, (rows, 2 * values). numpy's memory comes in huge pages on Linux."""
    content = np.empty((len(rows), 2 * values), dtype=np.uint8)
    reader.read(column, rows, content)
    return content


def _rows_with_ids(ids: NDArray[np.int64], keep: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows whose ids are to be kept, a flipped one with its original; DataError if an id is in no row."""
    rows = np.flatnonzero(np.isin(ids, keep))
    if missing := np.setdiff1d(keep, ids[rows]).tolist():
        raise DataError(f"image {missing[0]} is to be kept and is in no token file; run the tokens stage again")
    if not len(rows):
        raise DataError("no row is to be kept; the dedup stage dropped everything")
    return rows


def _rows_of(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """Return the rows of a step, (batch_size,)."""
    return rows_at(np.arange(step * batch_size, (step + 1) * batch_size), rows, seed)


def prefetch(prepare: Callable[[int], Prepared], steps: range, depth: int = 1) -> Iterator[Prepared]:
    """Yield prepare(step) for every step, `depth` of them ahead in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        pending: deque[Future[Prepared]] = deque(reader.submit(prepare, step) for step in steps[:depth])
        for later in range(depth, depth + len(steps)):
            ready = pending.popleft().result()
            pending.extend(reader.submit(prepare, step) for step in steps[later : later + 1])
            yield ready
