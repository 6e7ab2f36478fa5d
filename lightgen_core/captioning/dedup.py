"""Screens for captions that say again what an earlier one says: in the same words, or with the same meaning."""

from collections.abc import Sequence

import numpy as np

from lightgen_core.captioning.embedding import Embed
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption, Fault, Screen
from lightgen_core.dedup.minhash import CaptionDuplicates, near_duplicate_captions
from lightgen_core.dedup.search import NeighbourSearch, Subset, Vectors, evenly_spaced, index_factory

_NEIGHBOURS, _TUNING_QUERIES, _RECALL = 64, 1000, 0.99


def repeated_words(threshold: float, seed: int, *, within_meaning: bool) -> Screen:
    """Find captions whose word shingles have a Jaccard index of `threshold` or more with an earlier one's.

    Args:
        seed: of the hashes behind the search.
        within_meaning: only captions of one meaning can repeat each other, where meanings are known for certain.
    """

    def screen(captions: Sequence[Caption]) -> list[Fault | None]:
        groups = [caption.meaning for caption in captions] if within_meaning else None
        texts = [caption.text for caption in captions]
        return _faults(near_duplicate_captions(texts, threshold, seed, groups=groups), Reason.REPEATED_WORDS)

    return screen


def repeated_meaning(threshold: float, embed: Embed, *, within_meaning: bool) -> Screen:
    """Find captions whose embedding has a cosine of `threshold` or more with an earlier one's."""

    def screen(captions: Sequence[Caption]) -> list[Fault | None]:
        if len(captions) < 2:
            return [None] * len(captions)
        meanings = [caption.meaning if within_meaning else "" for caption in captions]
        vectors = embed([caption.text for caption in captions])
        return _faults(similar_vectors(vectors, threshold, meanings), Reason.REPEATED_MEANING)

    return screen


def similar_vectors(vectors: Vectors, threshold: float, groups: Sequence[str]) -> CaptionDuplicates:
    """Keep the first of each set of vectors of a group whose cosine is `threshold` or more.

    A row is dropped only for a row that stays, the most similar one.

    Args:
        vectors: (n, width) float32 of unit norm, n at least 2.
    """
    rows = len(vectors)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    duplicate_of, similarity = np.full(rows, -1), np.full(rows, np.nan)
    search = NeighbourSearch(Subset(vectors, np.arange(rows)), index_factory(rows), _NEIGHBOURS)
    search.tune_nprobe(evenly_spaced(rows, _TUNING_QUERIES), threshold, _RECALL)
    for pairs in search.pairs(threshold):
        earlier = pairs.where((pairs.other < pairs.row) & (group[pairs.other] == group[pairs.row]))
        # Rows ascend, so whether an earlier row stays is known by now.
        for row, other, cosine in zip(*(column.tolist() for column in earlier), strict=True):
            if duplicate_of[other] < 0 and not cosine <= similarity[row]:
                duplicate_of[row], similarity[row] = other, cosine
    return CaptionDuplicates(duplicate_of < 0, duplicate_of, similarity)


def _faults(found: CaptionDuplicates, reason: Reason) -> list[Fault | None]:
    return [
        None if kept else Fault(reason, repeats=int(other), similarity=float(similarity))
        for kept, other, similarity in zip(found.kept, found.duplicate_of, found.similarity, strict=True)
    ]
