"""Judged samples and preference pairs as rows of tables, and the training captions that they are made for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightgen_core.captioning.select import assign_captions
from lightgen_core.encoders.dtypes import fits, to_bytes
from lightgen_core.evaluation.preference import Kind, Lead, choose_pairs
from lightgen_core.images.parallel import encode_images
from lightgen_core.seeds import derive_seed


def choose_caption_rows(tokens: pa.Table, count: int, seed: int) -> NDArray[np.int64]:
    """Return ascending indices of at most `count` training rows of different captions, evenly over topics."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    order = order[~tokens["flipped"].to_numpy()[order]]  # the teacher's images are not mirrored
    captions = tokens["caption"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = order[np.sort(np.unique(captions[order], return_index=True)[1])]
    topics = tokens["topic"].take(first).to_pylist()
    return np.unique(first[assign_captions(topics, min(count, len(first)), "topics")[0]])


@dataclass(frozen=True)
class JudgedSamples:
    """The student's samples of some captions, n of each, with their scores.

    Attributes:
        seeds: of each sample; with the caption, the sampler and the student it is drawn again.
        scores: what pairs are chosen by.
        each: scores by scorer, of all that have a say in the choice; held_out: of the one that has none.
        usable: latents fit the stored number format; those of a student that diverged do not, and are in no pair.
    """

    images: UInt8[np.ndarray, "captions n height width 3"]
    latents: Float[Tensor, "captions n channels latent_height latent_width"]
    seeds: NDArray[np.int64]
    scores: Float[np.ndarray, "captions n"]
    each: Mapping[str, Float[np.ndarray, "captions n"]]
    held_out: Float[np.ndarray, "captions n"] | None
    usable: Bool[np.ndarray, "captions n"]
    dtype: str

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        latents: Tensor,
        seeds: Sequence[int],
        scores: np.ndarray,
        samples: int,
        dtype: str,
        each: Mapping[str, np.ndarray] | None = None,
        held_out: np.ndarray | None = None,
    ) -> "JudgedSamples":
        """Fold flat samples, `samples` in a row of each caption."""
        usable = fits(latents, dtype).numpy().reshape(-1, samples)
        return cls(
            images.reshape(-1, samples, *images.shape[1:]),
            latents.unflatten(0, (-1, samples)),
            np.array(seeds, dtype=np.int64).reshape(-1, samples),
            scores.reshape(-1, samples),
            {name: values.reshape(-1, samples) for name, values in (each or {}).items()},
            None if held_out is None else held_out.reshape(-1, samples),
            usable,
            dtype,
        )

    def latent_bytes(self, row: int, sample: int) -> bytes:
        """Return a sample's latents in the stored number format."""
        return to_bytes(self.latents[row, sample], self.dtype)


def score_column(scorer: str) -> str:
    """Return the name of the column that holds a scorer's scores."""
    return "score_" + scorer.replace(" ", "_")


def sample_rows(rows: Sequence[Mapping[str, Any]], judged: JudgedSamples) -> list[dict[str, Any]]:
    """Return the row of every sample; one that is not usable has no latents."""
    return [
        {name: row[name] for name in ("id", "caption", "topic")}
        | {
            "sample": sample,
            "seed": int(judged.seeds[index, sample]),
            "score": float(judged.scores[index, sample]),
            "held_out": None if judged.held_out is None else float(judged.held_out[index, sample]),
            "latents": judged.latent_bytes(index, sample) if judged.usable[index, sample] else None,
        }
        | {score_column(name): float(values[index, sample]) for name, values in judged.each.items()}
        for index, row in enumerate(rows)
        for sample in range(judged.scores.shape[1])
    ]


def pair_rows(
    rows: Sequence[Mapping[str, Any]],
    judged: JudgedSamples,
    teacher_images: Sequence[bytes | None],
    teacher_scores: Float[np.ndarray, " captions"],
    teacher_each: Mapping[str, Float[np.ndarray, " captions"]] | None = None,
    *,
    kind: Kind,
    margin: float,
    agreement: Mapping[str, float] | None = None,
    count: int = 1,
    seed: int = 0,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Return the rows of the pairs of each caption (see `choose_pairs`); captions without a usable pair have none.

    Args:
        rows: of `tokens`, one for each caption; `latents` are the teacher's.
        teacher_images: encoded, one for each row; None where no pair has them.
        teacher_scores, teacher_each: of the teacher's images, as `scores` and `each` of samples.
        margin: by which a winner leads in `scores`; agreement: and in single scorers.
        count, seed: pairs of a caption, and what they are drawn by.
        threads: that encode images.
    """
    chosen: list[tuple[int, int | None, int]] = []
    for index, row in enumerate(rows):
        kept = np.flatnonzero(judged.usable[index])
        if len(kept):
            drawn = derive_seed(seed, row["id"])
            score = Lead(judged.scores[index][kept], float(teacher_scores[index]), margin)
            single = [
                Lead(judged.each[name][index][kept], float((teacher_each or {})[name][index]), lead)
                for name, lead in (agreement or {}).items()
            ]
            for winner, loser in choose_pairs(score, kind, count=count, seed=drawn, agreement=single):
                chosen.append((index, None if winner is None else int(kept[winner]), int(kept[loser])))
    shown = sorted({(index, sample) for index, *pair in chosen for sample in pair if sample is not None})
    png = dict(zip(shown, encode_images((judged.images[sample] for sample in shown), threads), strict=True))
    return [
        {
            **{name: rows[index][name] for name in ("id", "caption", "topic", "text", "text_length")},
            "kind": "teacher" if winner is None else "ranked" if kind == "ranked" else "best_worst",
            "winner": rows[index]["latents"] if winner is None else judged.latent_bytes(index, winner),
            "loser": judged.latent_bytes(index, loser),
            "winner_sample": winner,
            "loser_sample": loser,
            "winner_image": {"bytes": teacher_images[index] if winner is None else png[index, winner], "path": None},
            "loser_image": {"bytes": png[index, loser], "path": None},
        }
        for index, winner, loser in chosen
    ]
