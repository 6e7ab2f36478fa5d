"""The order of a bucket's rows: one walk over all of them, or one for each weight, which take turns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightgen_core.data.shuffle import new_epoch_order, rows_at, weighted_turns
from lightgen_core.seeds import derive_seed


class RowOrder:
    """Rows in an endless order, a pure function of the seed; a row of weight 2 comes twice as often as one of weight 1.

    Rows of one weight are a class with a walk of its own, in which each comes once an epoch; classes take turns in
    proportion to the sums of their weights. Rows of equal weights have the order of rows without weights.

    Attributes:
        rows: number of rows that are visited at all.
        total: of their weights.
    """

    def __init__(self, rows: NDArray[np.int64], weights: NDArray[np.float64] | None, seed: int) -> None:
        """Sort the rows into classes. weights: (rows,), 0 for rows to leave out; None: all alike."""
        self._classes, values = [rows], [1.0]
        if weights is not None:
            values = np.unique(weights[weights > 0]).tolist()
            self._classes = [rows[weights == value] for value in values]
        self._sums = [value * len(own) for value, own in zip(values, self._classes, strict=True)]
        self.rows, self.total, self._seed = sum(map(len, self._classes)), sum(self._sums), seed
        self._orders = [new_epoch_order() for _ in self._classes]

    @property
    def visited(self) -> NDArray[np.int64]:
        """The rows that are visited at all."""
        return np.concatenate(self._classes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_orders"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._orders = [new_epoch_order() for _ in self._classes]

    def __getitem__(self, positions: range) -> NDArray[np.int64]:
        """Return the rows at consecutive positions."""
        if len(self._classes) == 1:
            own = self._classes[0]
            return own[rows_at(np.arange(positions.start, positions.stop), len(own), self._seed, self._orders[0])]
        numbers, turns = weighted_turns(positions.start, positions.stop, self._sums, self._seed)
        result = np.empty(len(numbers), np.int64)
        for number, (own, order) in enumerate(zip(self._classes, self._orders, strict=True)):
            mine, seed = numbers == number, derive_seed(self._seed, "weight", number)
            result[mine] = own[rows_at(turns[mine], len(own), seed, order)]
        return result
