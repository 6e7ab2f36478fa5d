"""The order in which training sees the rows: a keyed permutation per epoch, computed and never stored."""

import hashlib

import numpy as np

_ROUNDS = 6


def rows_at(positions: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Row numbers at positions of the endless training order.

    Epoch e holds positions e * rows to (e + 1) * rows - 1 and visits every row once, in an order of its own. It is a
    pure function of (seed, position): batch size, world size and number of readers do not change it, any position can
    be asked for at once, and one integer resumes it.

    Args:
        positions: int64 array, 0 or more, of any shape.
        rows: number of rows in the set.
        seed: key of the order.
    """
    positions = np.asarray(positions, dtype=np.int64)
    epochs, places = np.divmod(positions, rows)
    result = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        result[here] = keyed_permutation(places[here], rows, f"{seed}/{epoch}")
    return result


def keyed_permutation(places: np.ndarray, size: int, key: str) -> np.ndarray:
    """Images of `places` (0 to size - 1) under a permutation of range(size) that the key picks.

    A Feistel network permutes the smallest even power of two that holds `size`; values that fall outside are sent
    through again until they fall inside (cycle walking; the power is below 4 * size, so a few passes do). Unlike a
    library's shuffle it needs no memory for the whole set and cannot change with the library's version.
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    round_keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    result = _feistel(places.astype(np.uint64), half, round_keys)
    outside = result >= size
    while outside.any():
        result[outside] = _feistel(result[outside], half, round_keys)
        outside = result >= size
    return result.astype(np.int64)


def _feistel(values: np.ndarray, half: int, round_keys: np.ndarray) -> np.ndarray:
    """One pass of a balanced Feistel network over 2 * half bits."""
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return left << np.uint64(half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every input bit reaches every output bit. Overflow wraps, as meant."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
