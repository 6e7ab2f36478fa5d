"""Preference pairs as rows of a table, and the training captions that they are made for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.captioning.select import assign_captions
from lightgen_core.encoders.dtypes import fits, to_bytes
from lightgen_core.evaluation.preference import Kind, choose_pair
from lightgen_core.images.parallel import encode_images


def choose_caption_rows(tokens: pa.Table, count: int, seed: int) -> NDArray[np.int64]:
    """Return ascending indices of at most `count` training rows of different captions, evenly over topics."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    order = order[~tokens["flipped"].to_numpy()[order]]  # the teacher's images are not mirrored
    captions = tokens["caption"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = order[np.sort(np.unique(captions[order], return_index=True)[1])]
    topics = tokens["topic"].take(first).to_pylist()
    return np.unique(first[assign_captions(topics, min(count, len(first)), "topics")[0]])


def pair_rows(
    rows: Sequence[dict[str, Any]],
    teacher_images: Sequence[bytes],
    images: np.ndarray,
    latents: Tensor,
    sample_scores: Float[np.ndarray, "rows samples"],
    teacher_scores: Float[np.ndarray, " rows"],
    *,
    kind: Kind,
    margin: float,
    dtype: str,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Return the row of each caption that has a usable pair (see `choose_pair`).

    Samples whose latents do not fit `dtype`, as those of a student that diverged, are left out.

    Args:
        rows: of `tokens`, one for each caption; `latents` are the teacher's.
        teacher_images: encoded, one for each row.
        images: (rows * samples, height, width, 3) uint8, the student's.
        latents: (rows * samples, channels, height, width), of the same samples.
        dtype: number format of the stored latents.
        threads: that encode images.
    """
    samples = sample_scores.shape[1]
    chosen: list[tuple[int, int | None, int]] = []
    usable = fits(latents, dtype).numpy().reshape(len(rows), samples)
    for index in range(len(rows)):
        kept = np.flatnonzero(usable[index])
        if not len(kept):
            continue
        pair = choose_pair(sample_scores[index][kept], teacher_scores[index], kind, margin)
        if pair is not None:
            winner, loser = (None if sample is None else index * samples + int(kept[sample]) for sample in pair)
            assert loser is not None, "only a winner can be the teacher's"
            chosen.append((index, winner, loser))
    shown = [sample for _, *samples_of_pair in chosen for sample in samples_of_pair if sample is not None]
    png = dict(zip(shown, encode_images((images[sample] for sample in shown), threads), strict=True))
    return [
        {
            **{name: rows[index][name] for name in ("id", "caption", "topic", "text", "text_length")},
            "kind": "teacher" if winner is None else "best_worst",
            "winner": rows[index]["latents"] if winner is None else to_bytes(latents[winner], dtype),
            "loser": to_bytes(latents[loser], dtype),
            "winner_image": {"bytes": teacher_images[index] if winner is None else png[winner], "path": None},
            "loser_image": {"bytes": png[loser], "path": None},
        }
        for index, winner, loser in chosen
    ]
