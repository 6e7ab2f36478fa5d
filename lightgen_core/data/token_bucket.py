"""Rows of one shape, read as the fields of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.data.row_order import RowOrder
from lightgen_core.data.row_reader import RowReader
from lightgen_core.data.token_file import FEATURES, DataError
from lightgen_core.model.patchify import patchify


class TokenBucket:
    """The rows of a set with latents of one shape, in an order of their own."""

    def __init__(
        self,
        rows: RowReader,
        texts: RowReader,
        columns: Sequence[str],
        patch: int,
        order: RowOrder,
    ):
        """Find the rows' text; raise as a source.

        Args:
            texts: `rows` itself where each row holds its own.
            columns: of latents, and maybe of features.
            order: of the rows to train on, one or more.
        """
        self._rows, self._texts, self.order, self.columns, self._patch = rows, texts, order, columns, patch
        self._text_rows = self._find_texts()
        self.longest_text = int(texts.text_lengths(self._text_rows[:, order.visited].ravel()).max())
        layout = rows.layout
        if layout.height % patch or layout.width % patch:
            raise DataError(
                f"latents of {layout.height} x {layout.width} do not divide into patches of {patch} x {patch}"
            )
        self.grid = (layout.height // patch, layout.width // patch)
        if FEATURES in columns and (layout.feature_height, layout.feature_width) != self.grid:
            found = f"{layout.feature_height} x {layout.feature_width}"
            raise DataError(f"found features of {found} tokens and latents of {self.grid[0]} x {self.grid[1]}")
        values = layout.channels * layout.height * layout.width
        tokens = patchify(torch.arange(values).view(1, layout.channels, layout.height, -1), patch)[0]
        self._token_shape = tokens.shape
        # A patch's values lie in runs of `patch`; moving runs whole is ten times as fast as moving values.
        self._runs = (tokens.reshape(-1)[::patch] // patch).numpy()

    def _find_texts(self) -> NDArray[np.int64]:
        """Return the rows of `_texts`, (captions, rows), for each caption of each row; DataError if there is none."""
        dtype, other = self._rows.layout.dtype, self._texts.layout.dtype
        if not self._rows.caption_ids:
            return np.arange(len(self._rows))[None]
        if dtype != other:
            raise DataError(f"found latents of {dtype} and text of {other}; expected one type of both")
        wanted = np.stack(list(self._rows.caption_ids.values()))
        order = np.argsort(self._texts.ids)
        found = order[np.searchsorted(self._texts.ids, wanted, sorter=order) % len(order)]
        if (missing := self._texts.ids[found] != wanted).any():
            raise DataError(
                f"the text of caption {wanted[missing][0]} is in no file of texts; run the tokens stage again"
            )
        return found

    def rows_of(self, turn: int, batch_size: int) -> NDArray[np.int64]:
        """Return the rows of the bucket's own step `turn`, (batch_size,)."""
        return self.order[range(turn * batch_size, (turn + 1) * batch_size)]

    def read(self, rows: NDArray[np.int64], captions: NDArray[np.int64]) -> dict[str, Any]:
        """Return the fields of a batch of these rows, each with one of its captions, by number."""
        fields: dict[str, Any] = {"ids": self._rows.ids[rows], "grid": self.grid}
        text_rows, text_width = self._text_rows[captions, rows], self._texts.layout.text_width
        lengths = torch.from_numpy(self._texts.text_lengths(text_rows))
        longest = int(lengths.max())
        text = _values(self._texts, "text", text_rows, longest * text_width)  # padded with zeros
        fields["text"] = self._as_tensor(text).view(len(rows), longest, text_width)
        fields["text_mask"] = torch.arange(longest) < lengths[:, None]
        for column in self.columns:
            if column == FEATURES:
                shape = (len(rows), self.grid[0] * self.grid[1], self._rows.layout.feature_channels)
                fields[column] = self._as_tensor(_values(self._rows, column, rows, shape[1] * shape[2])).view(shape)
                continue
            latents = _values(self._rows, column, rows, self._token_shape.numel())
            tokens = latents.view(f"V{2 * self._patch}").take(self._runs, axis=1)
            fields[column] = self._as_tensor(tokens).view(len(rows), *self._token_shape)
        return fields

    def prefetch(self, rows: NDArray[np.int64], captions: NDArray[np.int64]) -> None:
        """Make the operating system load these rows, each with one of its captions."""
        self._rows.prefetch(rows)
        if self._texts is not self._rows:
            self._texts.prefetch(self._text_rows[captions, rows])

    def _as_tensor(self, data: np.ndarray) -> Tensor:
        return torch.from_numpy(data.view(np.int16)).view(self._rows.layout.torch_dtype)


def _values(reader: RowReader, column: str, rows: NDArray[np.int64], values: int) -> NDArray[np.uint8]:
    """Return a column as bytes, (rows, 2 * values). numpy's memory comes in huge pages on Linux."""
    content = np.empty((len(rows), 2 * values), dtype=np.uint8)
    reader.read(column, rows, content)
    return content
